package sriov

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

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

// Restore puts a VF back to its baseline for an operator: the same work under the same lock as a DEL. Without force it
// refuses a VF whose owner's namespace is still there, with ErrLiving. A VF that has no open record is left alone.
func (p *Plugin) Restore(ctx context.Context, address pci.Address, force bool) error {
	d, err := p.open(ctx, address, p.Log.With("vf", address.String()))
	if err != nil {
		return err
	}
	defer d.close()
	r, err := readRecord(p.Records, d.key())
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return nil
	case err != nil:
		return coded(types.ErrIOFailure, err)
	case r.Boot != d.boot:
		return coded(types.ErrIOFailure, p.Records.Remove(d.key()))
	case r.Phase == Free:
		return nil
	case r.Alive() && !force:
		return fmt.Errorf("%w: %s, in %s", ErrLiving, r.Owner, r.Netns.Path)
	}
	d.releaseFor(ctx, r)
	return d.restore(ctx, r)
}
