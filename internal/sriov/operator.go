package sriov

import (
	"context"
	"errors"
	"fmt"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// ErrLiving means that a VF's owner is still there.
var ErrLiving = errors.New("the VF's owner is alive")

// ReadRecord reads the record of one VF, for those who show it. Errors are the journal's.
func (p *Plugin) ReadRecord(address pci.Address) (*Record, error) {
	return readRecord(p.Records, address.String())
}

// Alive reports whether the network namespace that the VF was put into is still there.
func (r *Record) Alive() bool { return r.Phase != Free && r.Phase != Removing && alive(r.Netns) }

// Restore puts a VF back to its baseline for an operator: the same work under the same lock as a DEL. A VF that has no open
// record is left alone. Without force a VF whose owner's namespace is still there is refused with ErrLiving, and one whose
// record cannot be read with the journal's ErrCorrupt or ErrVersion; with it such a VF gets safe defaults, and its record is
// kept aside.
func (p *Plugin) Restore(ctx context.Context, address pci.Address, force bool) error {
	d, err := p.open(ctx, address, p.Log.With("vf", address.String()))
	if err != nil {
		return err
	}
	defer d.close()
	r, err := d.load(ctx)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return nil
	case force && (errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrVersion)):
		if r, err = d.salvage(Owner{}, err); err != nil {
			return err
		}
		return d.restore(ctx, r)
	case err != nil:
		return err
	case r.Phase == Free:
		return nil
	case r.Alive() && !force:
		return fmt.Errorf("%w: %s, in %s", ErrLiving, r.Owner, r.Netns.Path)
	}
	d.releaseFor(ctx, r)
	return d.restore(ctx, r)
}
