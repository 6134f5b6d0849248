package sriov

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// Check compares the record with the live VF: what the PF enforces, the interface in the pod, its addresses. It changes
// nothing.
func (p *Plugin) Check(ctx context.Context, args *cni.CmdArgs) error {
	c, err := p.call(args)
	if err == nil {
		err = c.cfg.NeedDevice()
	}
	if err != nil {
		return err
	}
	d, err := p.open(ctx, c.cfg.Device, c.log)
	if err != nil {
		return answer(err)
	}
	defer d.close()
	if err := d.checkAttachment(c); err != nil {
		return answer(err)
	}
	_, err = p.ipam(ctx, c, "CHECK")
	return answer(err)
}

func (d *device) checkAttachment(c *call) error {
	r, err := readRecord(d.p.Records, d.key())
	if err == nil && (!c.owns(r) || r.Boot != d.boot) {
		err = journal.ErrNotExist
	}
	if errors.Is(err, journal.ErrNotExist) {
		return coded(types.ErrUnknownContainer, fmt.Errorf("VF %s is not attached to container %s", d.key(), c.ContainerID))
	}
	if err != nil {
		return coded(types.ErrIOFailure, err)
	}
	if r.Phase != Attached {
		return coded(types.ErrTryAgainLater, fmt.Errorf("VF %s: the attachment is not complete, but %s", d.key(), r.Phase))
	}
	want := r.Baseline.Settings.With(r.Wanted)
	if r.Wanted.MAC == nil {
		want.MAC = nil
	}
	if r.Wanted.Rate == nil && r.Owed.Rate != nil {
		want.Rate = nil
	}
	var errs []error
	live, err := d.host.Read(d.pf, d.id.Index)
	if err != nil {
		errs = append(errs, err)
	} else {
		for _, diff := range live.Differences(want) {
			errs = append(errs, fmt.Errorf("VF %s, at its PF: %v", d.key(), diff))
		}
	}
	if r.Baseline.Netdev != nil {
		errs = append(errs, d.checkPod(c, r))
	}
	return errors.Join(errs...)
}

// checkPod looks at the interface from inside the pod.
func (d *device) checkPod(c *call, r *Record) error {
	ns, err := netns.Open(c.Netns)
	if err != nil {
		return coded(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_NETNS: %w", err))
	}
	defer ns.Close()
	pod, err := vf.NewConn(ns)
	if err != nil {
		return coded(types.ErrIOFailure, err)
	}
	dev, err := pod.Find(d.key())
	if err != nil {
		return fmt.Errorf("VF %s is not in the pod: %w", d.key(), err)
	}
	var errs []error
	if dev.Name != c.IfName {
		errs = append(errs, fmt.Errorf("VF %s is called %s in the pod, and should be called %s", d.key(), dev.Name, c.IfName))
	}
	if !dev.Up {
		errs = append(errs, fmt.Errorf("interface %s is down", dev.Name))
	}
	if r.Wanted.MAC != nil && dev.MAC != *r.Wanted.MAC {
		errs = append(errs, fmt.Errorf("interface %s has MAC %v, and should have %v", dev.Name, dev.MAC, *r.Wanted.MAC))
	}
	if c.cfg.MTU != 0 && dev.MTU != c.cfg.MTU {
		errs = append(errs, fmt.Errorf("interface %s has MTU %d, and should have %d", dev.Name, dev.MTU, c.cfg.MTU))
	}
	prev, err := c.previous()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if prev != nil {
		errs = append(errs, netlinks.Check(ns, dev.Name, prev.IPs, prev.Routes))
	}
	return errors.Join(errs...)
}

// Status says whether an ADD could work now.
func (p *Plugin) Status(ctx context.Context, args *cni.CmdArgs) error {
	c, err := p.call(args)
	if err != nil {
		return err
	}
	var errs []error
	if _, err := pci.Addresses(p.Root); err != nil {
		errs = append(errs, err)
	}
	if _, err := bootID(p.Root); err != nil {
		errs = append(errs, err)
	}
	if _, err := os.Stat(filepath.Join(p.Root, "sys/bus/pci/devices")); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, p.writable())
	if err := errors.Join(errs...); err != nil {
		return answer(coded(types.ErrPluginNotAvailable, err))
	}
	err = p.ipamIfKnown(ctx, c, "STATUS")
	if code := codeOf(err, 0); err != nil && code != types.ErrPluginNotAvailable && code != types.ErrLimitedConnectivity {
		err = &codedError{types.ErrPluginNotAvailable, err}
	}
	return answer(err)
}

// ipamIfKnown is ipam for a verb that came late to CNI: a plugin that does not know it has nothing to say.
func (p *Plugin) ipamIfKnown(ctx context.Context, c *call, verb string) error {
	_, err := p.ipam(ctx, c, verb)
	var e *types.Error
	if errors.As(err, &e) && e.Code == types.ErrInvalidEnvironmentVariables && strings.Contains(e.Msg, "CNI_COMMAND") {
		c.log.Debug("the IPAM plugin does not know the verb", "verb", verb, "error", err)
		return nil
	}
	return err
}

// writable tries the state folder as an ADD would use it.
func (p *Plugin) writable() error {
	if err := os.MkdirAll(p.Records.Dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	f, err := os.CreateTemp(p.Records.Dir, ".status-*")
	if err != nil {
		return fmt.Errorf("write to the state folder: %w", err)
	}
	_, err = f.WriteString("x") // a full disk makes files, and fills none
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// GC puts back the VFs of this network whose attachment the runtime does not know any more, and lets the IPAM plugin do
// the same. Without the runtime's list it does nothing: no list is not an empty one.
func (p *Plugin) GC(ctx context.Context, args *cni.CmdArgs) error {
	c, err := p.call(args)
	if err != nil {
		return err
	}
	if !c.cfg.GCNamed {
		return types.NewError(types.ErrInvalidNetworkConfig, "GC without cni.dev/valid-attachments: which attachments are valid is not known", "")
	}
	keys, err := p.Records.Keys()
	errs := []error{err}
	for _, key := range keys {
		if err := p.collect(ctx, c, key); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, p.ipamIfKnown(ctx, c, "GC"))
	return answer(errors.Join(errs...))
}

// collect puts one VF back if its owner is of this network and not valid, and does what the VF owes on this network.
func (p *Plugin) collect(ctx context.Context, c *call, key string) error {
	stale := func(r *Record) bool {
		if r.Phase == Free {
			return slices.ContainsFunc(r.Owed.Leases, func(l Lease) bool { return l.Owner.Network == c.cfg.Network })
		}
		return r.Owner.Network == c.cfg.Network &&
			!slices.Contains(c.cfg.Valid, types.GCAttachment{ContainerID: r.Owner.ContainerID, IfName: r.Owner.IfName})
	}
	r, err := readRecord(p.Records, key)
	if err != nil || !stale(r) {
		// A corrupt record does not say whose it is; the VF's next ADD sees to it.
		return nil
	}
	address, err := pci.ParseAddress(key)
	if err != nil {
		return coded(types.ErrIOFailure, err)
	}
	log := c.log.With("vf", key)
	d, err := p.open(ctx, address, log)
	if errors.Is(err, pci.ErrNoDevice) {
		log.Warn("the VF is no more: dropping its record", "owner", r.Owner.String())
		return errors.Join(p.dropGone(ctx, address, func(r *Record) (bool, error) {
			if r == nil || !stale(r) {
				return false, nil // it came while nobody had the lock
			}
			return true, p.releaseFor(ctx, log, key, r)
		}))
	}
	if err != nil {
		return err
	}
	defer d.close()
	switch r, err = d.load(ctx); {
	case errors.Is(err, journal.ErrNotExist), errors.Is(err, journal.ErrCorrupt), err == nil && !stale(r):
		return nil // somebody was faster, or it is of another boot or VF, and was dropped
	case err != nil:
		return err
	}
	if r.Phase == Free {
		return d.payFree(ctx, r)
	}
	c.log.Warn("putting back a VF whose owner is gone", "vf", key, "owner", r.Owner.String())
	return errors.Join(d.retire(ctx, r), owedLeases(d.owed))
}
