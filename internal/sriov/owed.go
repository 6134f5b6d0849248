package sriov

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// An owner that is no more cannot ask for its DEL again. What the IPAM plugin does not take back now stays on record, in
// phase removing, and whoever works on the VF next tries again: an ADD, a GC, an operator. A plugin that is not installed
// any more is no different: what it gave is still taken, in a store that it alone knows, and somebody may install it again.
// That keeps the VF from other pods, for as long as an operator does not give the addresses up.

// releaseFor gives back the addresses of an owner that is no more, by the configuration on record. Its error says that they
// are still taken; it has code 11.
func (p *Plugin) releaseFor(ctx context.Context, log *slog.Logger, key string, r *Record) error {
	if r.Invocation == nil {
		return nil
	}
	cfg, _, err := ParseForDel(r.Invocation.Config, r.Invocation.Args)
	if err == nil {
		dead := &call{cfg: cfg, log: log, CmdArgs: &skel.CmdArgs{
			ContainerID: r.Owner.ContainerID, IfName: r.Owner.IfName,
			Args: r.Invocation.Args, Path: r.Invocation.Path, StdinData: r.Invocation.Config,
		}}
		_, err = p.ipam(ctx, dead, "DEL")
	}
	switch {
	case err == nil:
		return nil
	case p.givesUp:
		log.Warn("the addresses of the VF's last owner are given up: the IPAM plugin may never give them out again", "owner", r.Owner.String(), "error", err)
		return nil
	}
	return &codedError{types.ErrTryAgainLater, fmt.Errorf("release the addresses of the last owner, %s: %w; mend the IPAM plugin, or give them up with: vfctl restore --force %s", r.Owner, err, key)}
}

// dropGone drops the record of a VF that is no more, and what is beside it, if mayGo says so. mayGo is asked under the lock,
// about nil if the record cannot be read; such a record is kept aside.
func (p *Plugin) dropGone(ctx context.Context, address pci.Address, mayGo func(*Record) (bool, error)) error {
	key := address.String()
	wait, cancel := context.WithTimeout(ctx, p.LockWait)
	defer cancel()
	lock, err := p.Records.Lock(wait, key)
	if err != nil {
		return coded(types.ErrTryAgainLater, err)
	}
	r, unreadable := readRecord(p.Records, key)
	if unreadable != nil {
		r = nil
	}
	if ok, err := mayGo(r); err != nil || !ok {
		return errors.Join(err, lock.Unlock())
	}
	if unreadable != nil && !errors.Is(unreadable, journal.ErrNotExist) {
		path, err := p.Records.SetAside(key)
		if err != nil {
			return coded(types.ErrIOFailure, errors.Join(err, lock.Unlock()))
		}
		p.Log.Error("the record of a VF that is no more cannot be read: kept it aside", "vf", key, "error", unreadable, "record", path)
	}
	_ = os.Remove(p.markPath(key))
	return coded(types.ErrIOFailure, errors.Join(p.Records.Remove(key), lock.UnlockAndRemove()))
}
