package sriov

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// claim decides by the VF's record whether the attachment may have it. A dead owner's VF is put back first. It returns the
// VF's known baseline, nil if there is none.
func (d *device) claim(ctx context.Context, c *call) (*Baseline, error) {
	r, err := d.load(ctx)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return nil, nil
	case errors.Is(err, journal.ErrCorrupt):
		path, lost := d.elsewhere(c.Netns)
		if lost != nil {
			return nil, errors.Join(lost, err)
		}
		if path == "" {
			path = d.inTheirs(c)
		}
		if path != "" {
			return nil, coded(types.ErrTryAgainLater, fmt.Errorf("VF %s is in the network namespace %s, and whose it is cannot be read: %w", d.key(), path, err))
		}
		if used := d.usedAtHome(); used != nil {
			return nil, errors.Join(used, err)
		}
		if r, err = d.salvage(c.owner(), err); err != nil {
			return nil, err
		}
		return nil, coded(types.ErrTryAgainLater, d.restore(ctx, r, c.Netns))
	case err != nil:
		return nil, err
	case r.Phase == Free:
		d.honour(ctx, r)
		if r.Salvaged || r.Identity.Driver != d.id.Driver {
			return nil, nil
		}
		return &r.Baseline, nil
	}
	if !r.Owner.is(c.ContainerID, c.IfName) && r.Alive() {
		return nil, coded(types.ErrTryAgainLater, fmt.Errorf("VF %s belongs to %s (network namespace %s), which has not been deleted yet", d.key(), r.Owner, r.Netns.Path))
	}
	c.log.Warn("the VF's last owner was never deleted: putting the VF back first", "owner", r.Owner.String(), "phase", r.Phase)
	if err := d.retire(ctx, r); err != nil {
		return nil, coded(types.ErrTryAgainLater, err)
	}
	if r.Salvaged || d.rebound(r) {
		return nil, nil // safe defaults are no baseline
	}
	return &r.Baseline, nil
}

// alive reports whether the namespace is still there, and the same.
func alive(at Place) bool {
	id, err := identify(at.Path)
	if err != nil {
		// What cannot be looked at is not dead.
		return !errors.Is(err, netns.ErrGone)
	}
	return id == at.ID
}

// identify tells the namespace at path from others, whatever paths they have.
func identify(path string) (netns.ID, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return netns.ID{}, err
	}
	defer ns.Close()
	return ns.ID()
}

// newRecord is what is written before the first change. While a baseline is known, the PF's side is not read for one: what
// differs from it was not a pod's doing but somebody's who should know that this VF is ours.
func (d *device) newRecord(c *call, known *Baseline) (*Record, error) {
	if d.id.Driver == "" {
		return nil, coded(types.ErrTryAgainLater, fmt.Errorf("VF %s has no driver: bind one, such as igbvf, iavf or vfio-pci", d.key()))
	}
	r := &Record{Boot: d.boot, Phase: Adding, Owner: c.owner(), Identity: d.id, Invocation: c.invocation(), Owed: d.owed}
	if dev, home := d.atHome(); home || d.hasNetdev() {
		if !home {
			return nil, coded(types.ErrTryAgainLater, fmt.Errorf("VF %s (driver %s) has no interface in the host's network namespace: another program may have moved it, or its driver is still starting", d.key(), d.id.Driver))
		}
		if err := refuseUplink(dev); err != nil {
			return nil, err
		}
		if known != nil && known.Netdev != nil && known.Netdev.Index != dev.Index {
			known = nil // its driver made the interface anew, and all that was known of it has gone with the old one
		}
		d.dev = dev
		if known == nil || known.Netdev == nil {
			var err error
			if d.dev, r.Baseline.Tuning, err = d.readTuning(dev); err != nil {
				return nil, coded(types.ErrIOFailure, err)
			}
		}
		r.Baseline.Netdev = new(d.dev)
	}
	if known != nil {
		r.Baseline.Settings = known.Settings
		if r.Baseline.Netdev != nil && known.Netdev != nil {
			// What the host calls it is the host's to change. The rest was seen as it is in the known baseline.
			dev := *known.Netdev
			dev.Index, dev.Name, dev.AltNames = r.Baseline.Netdev.Index, r.Baseline.Netdev.Name, r.Baseline.Netdev.AltNames
			d.nameOwed(&dev)
			r.Baseline.Netdev, r.Baseline.Tuning = &dev, known.Tuning
		}
	} else {
		live, err := d.host.Read(d.pf, d.id.Index)
		if err != nil {
			return nil, coded(types.ErrIOFailure, err)
		}
		d.seen, r.Baseline.Settings = d.owed.Rate == nil, live.With(vf.Settings{Rate: d.owed.Rate})
	}
	var err error
	if r.Wanted, err = c.cfg.Wanted(r.Baseline.Settings); err != nil {
		return nil, err
	}
	r.Baseline.Settings = undoable(r.Baseline.Settings, r.Wanted)
	return r, nil
}

// readTuning reads it by the interface's name, which udev may change meanwhile, or give to another: then once more.
func (d *device) readTuning(dev vf.Netdev) (vf.Netdev, vf.Tuning, error) {
	for tries := 0; ; tries++ {
		tuning, err := vf.ReadTuning(dev.Name)
		now, home := d.atHome()
		if !home || now.Name == dev.Name || tries == 5 {
			return dev, tuning, err
		}
		dev = now
	}
}

// nameOwed gives a baseline the names that the VF should have: it has not got them from somebody on the host, but did not get
// its own back from us.
func (d *device) nameOwed(dev *vf.Netdev) {
	if d.owed.Name != "" && dev.Name == d.spareName() {
		dev.Name = d.owed.Name
	}
	for _, name := range d.owed.AltNames {
		if !slices.Contains(dev.AltNames, name) {
			dev.AltNames = append(dev.AltNames, name)
		}
	}
	slices.Sort(dev.AltNames)
}

// undoable is a baseline that says to what everything goes back that is to be changed. Some drivers take trust or a spoof
// check and do not show them: those go back to the safe default, or the next pod would have what this one was given.
func undoable(baseline, wanted vf.Settings) vf.Settings {
	return vf.Defaults().Of(wanted).With(baseline)
}

// refuseUplink keeps a VF that carries the node's own traffic where it is.
func refuseUplink(dev vf.Netdev) error {
	use, err := nodeUse(dev)
	if err == nil && use != "" {
		err = coded(types.ErrInvalidNetworkConfig, fmt.Errorf("interface %s of VF %s is in use by the node itself: %s", dev.Name, dev.Address, use))
	}
	return err
}

// usedAtHome refuses a VF of which nothing is known and whose interface the node itself uses.
func (d *device) usedAtHome() error {
	if dev, home := d.atHome(); home {
		return refuseUplink(dev)
	}
	return nil
}

// nodeUse says what the node itself uses a VF's interface for; empty if for nothing. The error has code 5.
func nodeUse(dev vf.Netdev) (string, error) {
	if !dev.Up {
		return "", nil // it carries nothing
	}
	links, err := netlinks.NodeLinks()
	l := links[dev.Index]
	return l.Uplink + l.Addressed, coded(types.ErrIOFailure, err)
}
