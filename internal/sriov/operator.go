package sriov

import (
	"context"
	"errors"
	"fmt"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// What keeps Restore from a VF unless it is forced; test with errors.Is.
var (
	// ErrLiving means that a VF's owner is still there.
	ErrLiving = errors.New("the VF's owner is alive")
	// ErrUnreadable means that a VF's record cannot be read, so nobody knows whose the VF is, nor what it was before.
	ErrUnreadable = errors.New("the VF's record cannot be read")
)

// An Outcome says what Restore found and did, in words for a person.
type Outcome string

// The outcomes.
const (
	NoRecord     Outcome = "has no record: nobody of ours has changed it"
	AsBaseline   Outcome = "is as it was before: nothing to do"
	PutBack      Outcome = "put back as it was before"
	MadeSafe     Outcome = "had a record that cannot be read, which is kept aside; reset to safe defaults"
	Dropped      Outcome = "had a record of another boot or VF, which is dropped: nothing to put back"
	PutBackSoFar Outcome = "put back as far as it can be now; vfctl show says what is still owed"
	Rebound      Outcome = "has another driver than on record: what it was with that one is not known"
	Gone         Outcome = "is no more; its record is dropped"
)

// ReadRecord reads the record of one VF, for those who show it. Errors are the journal's.
func (p *Plugin) ReadRecord(address pci.Address) (*Record, error) {
	return readRecord(p.Records, address.String())
}

// Alive reports whether the network namespace that the VF was put into is still there.
func (r *Record) Alive() bool { return r.Phase != Free && r.Phase != Removing && alive(r.Netns) }

// Dead reports whether there is something to put back, or to drop, and nobody who will come for it.
func (p *Plugin) Dead(r *Record) bool {
	boot, err := bootID(p.Root)
	return err == nil && (r.Boot != boot || r.Phase != Free && !r.Alive() || r.Phase == Free && !r.Owed.IsEmpty())
}

// Restore puts a VF back to its baseline for an operator: the same work under the same lock as a DEL, also for a VF that
// is free and was changed by somebody since. Without force a VF whose owner's namespace is still there is refused with
// ErrLiving, and one whose record cannot be read with ErrUnreadable; with it such a VF gets safe defaults, and its record is
// kept aside. Addresses that the IPAM plugin does not take back keep the record open; with force they are given up.
func (p *Plugin) Restore(ctx context.Context, address pci.Address, force bool) (Outcome, error) {
	if force {
		forced := *p
		forced.givesUp = true
		p = &forced
	}
	log := p.Log.With("vf", address.String())
	_, _, theirs := p.Theirs.VF(address.String()) // what sriov-cni left becomes a record when it is read
	if err := p.Records.Read(address.String(), &Record{}); errors.Is(err, journal.ErrNotExist) && errors.Is(theirs, takeover.ErrNotExist) {
		_, err := pci.Read(p.Root, address)
		return NoRecord, err
	}
	d, err := p.open(ctx, address, log)
	if errors.Is(err, pci.ErrNoDevice) {
		return Gone, errors.Join(p.dropGone(ctx, address, func(r *Record) (bool, error) {
			switch {
			case force && r == nil:
				return true, nil
			case r == nil:
				return false, fmt.Errorf("%w: %w", ErrUnreadable, p.Records.Read(address.String(), &Record{}))
			case r.Alive() && !force:
				return false, fmt.Errorf("%w: %s, in %s", ErrLiving, r.Owner, r.Netns.Path)
			}
			return true, p.releaseFor(ctx, log, address.String(), r)
		}))
	}
	if err != nil {
		return "", err
	}
	defer d.close()
	r, err := d.load(ctx)
	unreadable := errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrVersion)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return Dropped, owedLeases(d.owed)
	case unreadable && !force:
		return "", fmt.Errorf("%w: %w", ErrUnreadable, err)
	case unreadable:
		if r, err = d.salvage(Owner{}, err); err != nil {
			return "", err
		}
		return MadeSafe, d.restore(ctx, r)
	case err != nil:
		return "", err
	case r.Alive() && !force:
		return "", fmt.Errorf("%w: %s, in %s", ErrLiving, r.Owner, r.Netns.Path)
	}
	if err := d.inUse(r); err != nil && !force {
		return "", err
	}
	if r.Phase == Free {
		return d.restoreFree(ctx, r)
	}
	err = d.retire(ctx, r)
	return d.outcome(), errors.Join(err, owedLeases(d.owed))
}

// outcome is PutBack, if it is all that.
func (d *device) outcome() Outcome {
	if d.owed.IsEmpty() {
		return PutBack
	}
	return PutBackSoFar
}

// inUse says who has the VF that the record does not know of: the node itself, or a namespace into which another program
// has moved it.
func (d *device) inUse(r *Record) error {
	if !d.hasNetdev() {
		return nil // nobody can see who uses it
	}
	if dev, home := d.atHome(); home {
		return refuseUplink(dev)
	}
	path, err := d.whereabouts()
	if err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	// By what it is: a runtime's /var/run is found as /run here, or by way of a process. In the pod's own, too, there is somebody,
	// though the path on record has gone, unless its DEL was on the way.
	id, err := identify(path)
	if err == nil && (id != r.Netns.ID || r.Phase != Removing) {
		err = ErrLiving
	}
	if err != nil {
		return fmt.Errorf("%w: its interface is in %s", err, path)
	}
	return nil
}

// restoreFree puts a VF back that has no owner, if it is not as it should be.
func (d *device) restoreFree(ctx context.Context, r *Record) (Outcome, error) {
	pf, err := pci.Read(d.p.Root, d.vf.PF)
	if err != nil {
		return "", err
	}
	i := &Inspector{p: d.p, boot: d.boot, ns: d.ns, host: d.host, pfs: map[pci.Address]pfView{}}
	v := i.View(d.vf, pf)
	owed := d.payFree(ctx, r)
	switch {
	case v.Void != "":
		return Rebound, owed
	case len(v.Differences) == 0 && len(v.Problems) == 0 && len(r.Owed.Strings()) == len(r.Owed.Leases):
		return AsBaseline, owed
	}
	// While it is on its way back somebody has to own it, who is no pod.
	r.Owner = Owner{ContainerID: "vfctl", IfName: "vfctl", Network: "vfctl restore"}
	err = d.restore(ctx, r)
	return d.outcome(), errors.Join(owed, err)
}
