package sriov

import (
	"context"
	"errors"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// Del takes the VF back and releases the addresses. It needs no namespace, may come twice, and tries everything. For a VF
// that somebody else has by now it only releases its own addresses.
func (p *Plugin) Del(ctx context.Context, args *skel.CmdArgs) error {
	start := time.Now()
	cfg, fault, err := ParseForDel(args.StdinData, args.Args)
	if err != nil {
		return err
	}
	c := p.callWith(args, cfg)
	if fault != nil {
		c.log.Warn("DEL of a definition that ADD refuses: taking back what there is", "fault", fault)
	}
	steps := []func() error{
		func() error { return p.releaseAddresses(ctx, c) },
		func() error { return p.release(ctx, c) },
	}
	// A DHCP client has to say goodbye over the interface, so IPAM comes first; but once the namespace has gone nothing is
	// more urgent than the VF.
	if ns, err := netns.Open(c.Netns); err != nil {
		steps[0], steps[1] = steps[1], steps[0]
	} else {
		_ = ns.Close()
	}
	if err := errors.Join(steps[0](), steps[1]()); err != nil {
		c.log.Error("DEL could not do everything", "error", err, "took", time.Since(start))
		return answer(err)
	}
	c.log.Info("done with DEL", "took", time.Since(start))
	return nil
}

// releaseAddresses runs the IPAM plugin. One that is not installed cannot have given anything, unless our record says that
// this attachment got as far as to ask it.
func (p *Plugin) releaseAddresses(ctx context.Context, c *call) error {
	if c.cfg.IPAM == "" {
		return nil
	}
	if _, err := findPlugin(c.cfg.IPAM, c.Path); err != nil {
		if address, ownErr := p.whose(c); ownErr == nil && !p.owns(c, address) {
			c.log.Warn("DEL: no addresses to release", "error", err)
			return nil
		}
	}
	_, err := p.ipam(ctx, c, "DEL")
	return err
}

// owns reports whether the VF's record is open and this attachment's.
func (p *Plugin) owns(c *call, address pci.Address) bool {
	r, err := readRecord(p.Records, address.String())
	return err == nil && r.Phase != Free && r.Owner.is(c.ContainerID, c.IfName)
}

// release puts back what the attachment has on record.
func (p *Plugin) release(ctx context.Context, c *call) error {
	address, err := p.whose(c)
	if err != nil || address == (pci.Address{}) {
		return err
	}
	// Without a record there is nothing of ours, whatever the device is by now.
	if err := p.Records.Read(address.String(), &Record{}); errors.Is(err, journal.ErrNotExist) {
		c.log.Debug("DEL: the VF has no record, nothing to put back")
		return nil
	}
	d, err := p.open(ctx, address, c.log)
	if errors.Is(err, pci.ErrNoDevice) {
		c.log.Warn("the VF is no more: dropping its record")
		return coded(types.ErrIOFailure, p.dropIfOwner(ctx, c, address))
	}
	if errors.Is(err, journal.ErrLocked) {
		return errors.Join(err, p.leaveMark(c, address))
	}
	if err != nil {
		return err
	}
	defer d.close()
	r, err := readRecord(p.Records, d.key())
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return nil
	case errors.Is(err, journal.ErrCorrupt):
		if r, err = d.salvage(c, err); err != nil {
			return err
		}
		return d.restore(ctx, r, c.Netns)
	case err != nil:
		return coded(types.ErrIOFailure, err)
	case r.Boot != d.boot:
		c.log.Info("the VF's record is from before a reboot: dropped", "owner", r.Owner.String())
		return coded(types.ErrIOFailure, p.Records.Remove(d.key()))
	case r.Phase == Free:
		return nil
	case !r.Owner.is(c.ContainerID, c.IfName):
		c.log.Info("the VF has another owner by now: not touched", "owner", r.Owner.String())
		return nil
	case r.Identity.PF != d.id.PF || r.Identity.Index != d.id.Index || r.Identity.NumVFs != d.id.NumVFs:
		c.log.Warn("the VF's record is of another VF that had its address: dropped", "then", r.Identity, "now", d.id)
		return coded(types.ErrIOFailure, p.Records.Remove(d.key()))
	}
	return d.restore(ctx, r, c.Netns)
}

// whose finds the VF that a DEL is about. A runtime that lost the configuration's device id still gets it back.
func (p *Plugin) whose(c *call) (pci.Address, error) {
	if c.cfg.NeedDevice() == nil {
		return c.cfg.Device, nil
	}
	keys, err := p.Records.Keys()
	if err != nil {
		return pci.Address{}, coded(types.ErrIOFailure, err)
	}
	for _, key := range keys {
		if r, err := readRecord(p.Records, key); err == nil && r.Phase != Free && r.Owner.is(c.ContainerID, c.IfName) {
			address, err := pci.ParseAddress(key)
			return address, coded(types.ErrIOFailure, err)
		}
	}
	return pci.Address{}, nil
}

func (p *Plugin) dropIfOwner(ctx context.Context, c *call, address pci.Address) error {
	wait, cancel := context.WithTimeout(ctx, p.LockWait)
	defer cancel()
	lock, err := p.Records.Lock(wait, address.String())
	if err != nil {
		return err
	}
	r, err := readRecord(p.Records, address.String())
	if err == nil && r.Phase != Free && !r.Owner.is(c.ContainerID, c.IfName) {
		return lock.Unlock()
	}
	return errors.Join(p.Records.Remove(address.String()), lock.Unlock())
}
