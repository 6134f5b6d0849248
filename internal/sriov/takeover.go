package sriov

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A VF may be in a pod that sriov-cni attached before the node became ours. What that saved of it becomes a record like our
// own the first time that a verb works on the VF: then its owner's DEL puts it back, and nobody else gets it before.

// adopt makes a record of what sriov-cni saved of the VF, and writes it; nil if it saved nothing. last is our own record of
// before, nil if there is none. The error wraps journal.ErrCorrupt if somebody has the VF, and who cannot be read.
func (d *device) adopt(ctx context.Context, last *Record) (*Record, error) {
	theirs := d.p.Theirs
	if theirs == "" {
		return nil, nil //nolint:nilnil // nothing is the answer
	}
	release, idle := theirs.Idle(d.key())
	if !idle {
		return nil, coded(types.ErrTryAgainLater, fmt.Errorf("sriov-cni is at work on VF %s", d.key()))
	}
	defer release()
	now, older, err := theirs.VF(d.key())
	corrupt := errors.Is(err, takeover.ErrCorrupt)
	switch {
	case errors.Is(err, takeover.ErrNotExist):
		return nil, nil //nolint:nilnil // nothing is the answer
	case err != nil && !corrupt:
		return nil, coded(types.ErrIOFailure, err)
	}
	at, lost := d.placeOf(now.Netns)
	switch {
	case lost != nil:
		return nil, lost
	case at.ID == (netns.ID{}) && now.Saved.Before(lastBoot()):
		d.log.Info("what sriov-cni saved of the VF is from before a reboot: dropped", "container", now.ContainerID)
		if corrupt {
			_, err = theirs.SetAside(d.key())
			return nil, coded(types.ErrIOFailure, err)
		}
		return nil, coded(types.ErrIOFailure, theirs.Forget(d.key(), append(older, now)...))
	}
	if dev, home := d.atHome(); home {
		switch use, unknown := nodeUse(dev); {
		case unknown != nil:
			return nil, unknown
		case use != "":
			d.log.Warn("what sriov-cni saved of the VF waits: the node itself uses its interface", "interface", dev.Name, "use", use, "container", now.ContainerID)
			return nil, nil //nolint:nilnil // no pod gets the VF meanwhile: see refuseUplink
		}
	}
	if corrupt {
		return nil, fmt.Errorf("%w: what sriov-cni left: %w", journal.ErrCorrupt, err)
	}
	r := &Record{
		Boot: d.boot, Phase: Attached, Netns: at, Identity: d.id,
		Owner: Owner{ContainerID: now.ContainerID, IfName: now.IfName, Network: now.Network},
	}
	if now.Config != nil {
		r.Invocation = &Invocation{Config: now.Config, Args: now.Args, Path: d.p.Path}
	}
	if last != nil {
		r.Owed = Owed{Leases: last.Owed.Leases}
	}
	if r.Wanted, err = d.host.Read(d.pf, d.id.Index); err != nil { // it is as its pod has it
		return nil, coded(types.ErrIOFailure, err)
	}
	r.Baseline.Settings = settingsOf(now.Before, d.pfDriver).Of(r.Wanted)
	if now.Before.HostIFName != "" && d.hasNetdev() { // a driver that somebody has given it since is left alone
		if r.Baseline.Netdev, err = d.netdevOf(ctx, now, at); err != nil {
			return nil, err
		}
	}
	if err := d.write(r); err != nil {
		return nil, err
	}
	d.log.Info("takes over a VF that sriov-cni attached", "owner", r.Owner.String(), "netns", at.Path, "before", r.Baseline.Settings.String())
	return r, coded(types.ErrIOFailure, theirs.Forget(d.key(), append(older, now)...))
}

// placeOf is where a VF is that sriov-cni says it has put into the namespace at path; without an ID if no namespace has it any
// more. A path such as /proc/1234/ns/net may lead to somebody else's by now, and another version may not have saved one. So
// where the interface is counts for more. The error has code 11.
func (d *device) placeOf(path string) (Place, error) {
	if _, home := d.atHome(); home {
		return Place{}, nil
	}
	saved := d.foreign(path)
	if !d.hasNetdev() { // nobody can see who uses it
		return saved, nil
	}
	if isIn, _ := d.isIn(saved.Path); isIn {
		return saved, nil
	}
	found, err := d.whereabouts()
	if found == "" && err != nil {
		return Place{}, err
	}
	return d.foreign(found), nil
}

// foreign identifies the namespace at path; it is empty if there is none, or it is our own.
func (d *device) foreign(path string) Place {
	ns, err := netns.Open(path)
	if err != nil {
		return Place{}
	}
	defer ns.Close()
	id, err := ns.ID()
	own, ownErr := d.ns.ID()
	if err != nil || ownErr != nil || id == own {
		return Place{}
	}
	return Place{Path: path, ID: id}
}

// inTheirs is the living namespace, other than that of this call, that sriov-cni says has a VF of which nobody can see who uses
// it; empty if there is none.
func (d *device) inTheirs(c *call) string {
	now, _, err := d.p.Theirs.VF(d.key())
	if now == nil || err != nil && !errors.Is(err, takeover.ErrCorrupt) || d.hasNetdev() {
		return ""
	}
	at := d.foreign(now.Netns)
	if at.ID == (netns.ID{}) || at.ID == d.foreign(c.Netns).ID {
		return ""
	}
	return at.Path
}

// lastBoot is when the machine started, by its clock of today.
func lastBoot() time.Time {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return time.Time{} // no kernel that runs containers lacks it
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

// settingsOf is what the PF enforced on the VF. What sriov-cni's version did not save goes to its safe default.
func settingsOf(s takeover.VFState, pfDriver string) vf.Settings {
	out := vf.DefaultsFor(pfDriver)
	if mac, err := vf.ParseMAC(s.AdminMAC); err == nil {
		out.MAC = &mac
	}
	if s.Vlan > 0 {
		out.VLAN = &vf.VLAN{ID: uint16(s.Vlan), QoS: uint8(s.VlanQoS), Proto: vf.Proto8021Q}
		if s.VlanProto == unix.ETH_P_8021AD {
			out.VLAN.Proto = vf.Proto8021AD
		}
	}
	if s.MaxTxRate == 0 || s.MaxTxRate >= s.MinTxRate { // 0 is no limit
		out.Rate = &vf.Rate{Min: uint32(s.MinTxRate), Max: uint32(s.MaxTxRate)}
	}
	if s.SpoofChk != nil {
		out.SpoofCheck = s.SpoofChk
	}
	if s.Trust != nil {
		out.Trust = s.Trust
	}
	out.LinkState = new(vf.LinkState(s.LinkState))
	return out
}

// netdevOf is the interface as it was: name, MAC and MTU as saved, and the rest, which sriov-cni does not change, as it is.
// If its pod's namespace has died, it is on its way home.
func (d *device) netdevOf(ctx context.Context, now *takeover.Attachment, at Place) (*vf.Netdev, error) {
	dev, err := d.findIn(at.Path)
	if err != nil {
		if dev, err = d.await(ctx, d.id.Driver); err != nil {
			return nil, err
		}
	}
	dev.Name, dev.Up, dev.Promisc, dev.AllMulti = now.Before.HostIFName, false, false, false
	if mac, err := vf.ParseMAC(now.Before.EffectiveMAC); err == nil && mac.IsUnicast() {
		dev.MAC = mac
	}
	if now.Before.MTU > 0 {
		dev.MTU = now.Before.MTU
	}
	return &dev, nil
}
