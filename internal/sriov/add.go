package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// Add puts a VF into a pod and writes the result to Out. What it did before it failed it undoes; what it cannot undo
// stays on record.
func (p *Plugin) Add(ctx context.Context, args *cni.CmdArgs) error {
	start := time.Now()
	c, err := p.call(args)
	if err == nil {
		err = c.cfg.NeedDevice()
	}
	if err != nil {
		return err
	}
	result, err := p.add(ctx, c)
	if err != nil {
		c.log.Error("ADD failed", "error", err, "took", time.Since(start))
		return answer(err)
	}
	c.log.Info("VF is in the pod", "took", time.Since(start))
	return json.NewEncoder(p.Out).Encode(result)
}

// express gives the result in the version that the configuration has.
func express(r *types100.Result, version string) (types.Result, error) {
	if len(r.IPs) == 0 && (version == "0.1.0" || version == "0.2.0") {
		// These tell of nothing but addresses, and the library refuses to convert what has none.
		return &types020.Result{CNIVersion: version, DNS: r.DNS}, nil
	}
	versioned, err := r.GetAsVersion(version)
	if err != nil {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("express the result in version %s: %v", version, err), "")
	}
	return versioned, nil
}

func (p *Plugin) add(ctx context.Context, c *call) (types.Result, error) {
	d, err := p.open(ctx, c.cfg.Device, c.log)
	if err != nil {
		return nil, err
	}
	defer d.close()
	ns, id, err := d.openPod(c.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	pod, err := vf.NewConn(ns)
	if err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	if err := d.check(c, pod); err != nil {
		return nil, err
	}
	known, err := d.claim(ctx, c)
	if err != nil {
		return nil, err
	}
	r, err := d.newRecord(c, known)
	if err != nil {
		return nil, err
	}
	r.Netns = Place{Path: c.Netns, ID: id}
	d.dropMark()
	if err := d.write(r); err != nil {
		return nil, err
	}
	attaching, stop := d.untilCancelled(ctx, c)
	var answered types.Result
	result, err := d.attach(attaching, c, r, pod, ns)
	if err == nil {
		answered, err = express(result, c.cfg.CNIVersion)
	}
	if err == nil {
		err = calledOff(attaching)
	}
	stop()
	if err != nil {
		// Not under a context that ends: an ADD that was called off has to be undone all the same.
		return nil, errors.Join(err, d.undo(context.WithoutCancel(ctx), c, r))
	}
	r.Phase = Attached
	if err := d.write(r); err != nil {
		return nil, errors.Join(err, d.undo(context.WithoutCancel(ctx), c, r))
	}
	c.log.Debug("netlink requests", "host", d.host.Count, "pod", pod.Count)
	return answered, nil
}

// openPod opens the pod's network namespace, which must not be ours.
func (d *device) openPod(path string) (*netns.Netns, netns.ID, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, netns.ID{}, coded(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_NETNS: %w", err))
	}
	id, err := ns.ID()
	own, ownErr := d.ns.ID()
	if err := errors.Join(err, ownErr); err != nil {
		return nil, netns.ID{}, errors.Join(coded(types.ErrIOFailure, err), ns.Close())
	}
	if id == own {
		return nil, netns.ID{}, errors.Join(coded(types.ErrInvalidNetNS, fmt.Errorf("CNI_NETNS %s is the plugin's own namespace", path)), ns.Close())
	}
	return ns, id, nil
}

// check refuses, before anything is changed, what cannot become an attachment.
func (d *device) check(c *call, pod *vf.Conn) error {
	// The kernel makes a number of %d, and takes the other two in /proc/sys/net/ipv6/conf for what holds for every interface.
	if strings.Contains(c.IfName, "%") || c.IfName == "all" || c.IfName == "default" {
		return coded(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_IFNAME: %q cannot be an interface's name: take one without %%, and not all or default", c.IfName))
	}
	if c.cfg.IPAM != "" {
		if _, err := c.ipamPath(); err != nil {
			return err
		}
	}
	if c.cfg.MTU != 0 {
		most, err := d.pfMTU()
		if err != nil {
			return coded(types.ErrIOFailure, err)
		}
		if c.cfg.MTU > most {
			return coded(types.ErrInvalidNetworkConfig, fmt.Errorf("network %q: mtu: %d is more than the %d of its PF %s", c.cfg.Network, c.cfg.MTU, most, d.pfName))
		}
	}
	taken, err := pod.HasName(c.IfName)
	if err != nil {
		return coded(types.ErrIOFailure, err)
	}
	if taken {
		// Our own from an ADD that was killed is the one that may be there: claim takes it back.
		if dev, err := pod.Find(d.key()); err == nil && dev.Name == c.IfName {
			return nil
		}
		return coded(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_IFNAME: the pod already has an interface %s", c.IfName))
	}
	return nil
}

// attach changes the VF: from here on there is something to undo.
func (d *device) attach(ctx context.Context, c *call, r *Record, pod *vf.Conn, ns *netns.Netns) (*types100.Result, error) {
	d.tellMAC(c, r)
	todo := vf.Plan(r.Baseline.Settings, r.Wanted)
	if err := d.host.Write(d.pf, d.id.Index, todo); err != nil {
		return nil, settingError(c, err)
	}
	// The rest of the entry is looked at, too: a pod must not inherit what somebody else left there.
	want := r.Baseline.Settings.With(r.Wanted)
	if r.Wanted.MAC == nil {
		want.MAC = nil
	}
	if r.Wanted.Rate == nil && r.Owed.Rate != nil {
		want.Rate = nil // it could not be put back, and not for want of trying
	}
	if !d.seen || !todo.IsEmpty() {
		if _, err := d.host.Settle(ctx, d.pf, d.id.Index, want); err != nil {
			return nil, settingError(c, err)
		}
	}
	c.log.Debug("the PF's entry is set", "was", r.Baseline.Settings, "set", r.Wanted)
	if err := calledOff(ctx); err != nil {
		return nil, err
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: c.cfg.DNS}
	iface := &types100.Interface{PciID: d.key(), Sandbox: c.Netns, Name: c.IfName}
	if r.Wanted.MAC != nil {
		iface.Mac = r.Wanted.MAC.String()
	}
	result.Interfaces = []*types100.Interface{iface}
	var dev vf.Netdev
	if r.Baseline.Netdev != nil {
		var err error
		if dev, err = d.moveIn(ctx, c, r, pod); err != nil {
			return nil, err
		}
		iface.Mac, iface.Mtu = dev.MAC.String(), dev.MTU
		c.log.Debug("the interface is in the pod", "was", d.dev.Name, "mac", iface.Mac, "mtu", dev.MTU)
	}
	if c.cfg.IPAM == "" {
		return result, nil
	}
	if err := calledOff(ctx); err != nil {
		return nil, err
	}
	given, err := d.p.ipamAdd(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(given.IPs) == 0 && len(given.Routes) == 0 {
		return nil, types.NewError(types.ErrInternal, fmt.Sprintf("IPAM plugin %q gave no address", c.cfg.IPAM), "")
	}
	result.IPs, result.Routes = given.IPs, given.Routes
	for _, ip := range result.IPs {
		ip.Interface = new(0)
	}
	if c.cfg.DNS.IsEmpty() {
		result.DNS = given.DNS
	}
	if r.Baseline.Netdev == nil {
		return result, nil // the pod's own driver has to use them
	}
	return result, d.configure(ctx, c, dev, pod, ns, result)
}

// configure gives the interface its addresses and routes, and tells the neighbours.
func (d *device) configure(ctx context.Context, c *call, dev vf.Netdev, pod *vf.Conn, ns *netns.Netns, result *types100.Result) error {
	inPod := netlinks.Interface{Index: dev.Index, Name: dev.Name, MAC: dev.MAC[:], HasCarrier: func() (bool, error) {
		now, err := pod.Get(dev.Index)
		return now.Carrier, err
	}}
	if err := netlinks.Configure(ns, inPod, result.IPs, result.Routes); err != nil {
		return coded(types.ErrInvalidNetworkConfig, err)
	}
	how, err := netlinks.Announce(ctx, ns, inPod, result.IPs)
	switch {
	case err != nil:
		c.log.Warn("cannot announce the pod's addresses: neighbours may know an old MAC for a while", "error", err)
	case how != "":
		c.log.Info("the pod's addresses are announced later", "how", how)
	}
	return nil
}

// settingError says what the driver did not take; the reader is whoever wrote the network definition.
func settingError(c *call, err error) error {
	code := types.ErrIOFailure
	switch {
	case errors.Is(err, vf.ErrExists):
		code = types.ErrInvalidEnvironmentVariables // somebody in the pod has just taken the name
	case errors.Is(err, vf.ErrBusy), errors.Is(err, vf.ErrUnsettled), errors.Is(err, vf.ErrNoDevice), errors.Is(err, vf.ErrNoVF):
		code = types.ErrTryAgainLater
	case errors.Is(err, vf.ErrUnsupported):
		code = types.ErrUnsupportedField
	case errors.Is(err, vf.ErrInvalid), errors.Is(err, vf.ErrPermission), errors.Is(err, vf.ErrAddress):
		code = types.ErrInvalidNetworkConfig
	}
	return coded(code, fmt.Errorf("network %q: %w", c.cfg.Network, err))
}

// tellMAC gives the interface its MAC while the VF may still choose: once the PF's entry has one, igb refuses even that
// one until the VF is reset. Where an administrator has set another MAC before us it is refused here, and moveIn insists.
func (d *device) tellMAC(c *call, r *Record) {
	if c.cfg.MAC == nil || r.Baseline.Netdev == nil || d.dev.MAC == *c.cfg.MAC {
		return
	}
	if err := d.host.SetMAC(d.dev.Index, *c.cfg.MAC); err != nil {
		c.log.Debug("the VF may not choose its MAC", "error", err)
	}
}

// moveIn moves the interface into the pod, named, with its MAC and MTU, up, and makes sure that it arrived so.
func (d *device) moveIn(ctx context.Context, c *call, r *Record, pod *vf.Conn) (vf.Netdev, error) {
	a := vf.Arrival{Name: c.IfName, MTU: c.cfg.MTU, Up: true}
	err := d.host.Move(r.Baseline.Netdev.Index, pod, a)
	if errors.Is(err, vf.ErrExists) {
		// One of its alternative names is taken there, and then it did not move. The record remembers them.
		if dev, ok := d.atHome(); ok && len(dev.AltNames) > 0 {
			err = errors.Join(d.host.DropAltNames(dev, nil), d.host.Move(dev.Index, pod, a))
		}
	}
	if err != nil {
		return vf.Netdev{}, settingError(c, err)
	}
	dev, err := pod.Find(d.key())
	if err != nil {
		return vf.Netdev{}, coded(types.ErrIOFailure, fmt.Errorf("find VF %s in the pod after its move: %w", d.key(), err))
	}
	if c.cfg.MAC != nil && dev.MAC != *c.cfg.MAC {
		want := dev
		want.MAC = *c.cfg.MAC
		if dev, err = d.insist(ctx, pod, dev, want); err != nil {
			return vf.Netdev{}, settingError(c, err)
		}
	}
	return dev, nil
}

// insist sets the interface's MAC until it is there: iavf takes it only after the VF reset that the PF's new entry caused,
// igbvf after the one that setting the interface down is.
func (d *device) insist(ctx context.Context, pod *vf.Conn, dev, want vf.Netdev) (vf.Netdev, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		now, err := pod.Reset(dev, want)
		if err == nil && now.MAC == want.MAC {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return now, errors.Join(fmt.Errorf("%w: interface %s of VF %s has MAC %v, wanted %v", vf.ErrUnsettled, now.Name, d.key(), now.MAC, want.MAC), err)
		case <-time.After(50 * time.Millisecond):
			dev = now
		}
	}
}

// undo takes a failed ADD back.
func (d *device) undo(ctx context.Context, c *call, r *Record) error {
	if err := d.withdraw(ctx, c, r); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}
