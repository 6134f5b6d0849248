package sriov

import (
	"context"
	"errors"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// Del takes the VF back and releases the addresses. It needs no namespace, may come twice, and tries everything. For a VF
// that somebody else has by now it only releases its own addresses.
func (p *Plugin) Del(ctx context.Context, args *cni.CmdArgs) error {
	start := time.Now()
	cfg, fault, err := ParseForDel(args.StdinData, args.Args)
	if err != nil {
		return delAnswer(err)
	}
	c := p.callWith(args, cfg)
	if fault != nil {
		c.log.Warn("DEL of a definition that ADD refuses: taking back what there is", "fault", fault)
	}
	if err := p.del(ctx, c); err != nil {
		c.log.Error("DEL could not do everything", "error", err, "took", time.Since(start))
		return delAnswer(err)
	}
	c.log.Info("done with DEL", "took", time.Since(start))
	return nil
}

// delAnswer is answer in words that no container runtime takes for success: what is left has to be tried again.
func delAnswer(err error) error {
	var e *types.Error
	if err = answer(err); errors.As(err, &e) {
		return cni.DelError(e)
	}
	return err
}

// del does it all under the VF's lock, the addresses, too: a runtime that starts an ADD while its DEL still runs must not
// get addresses from it that nobody releases.
func (p *Plugin) del(ctx context.Context, c *call) error {
	address, err := p.whose(c)
	if err != nil || address == (pci.Address{}) {
		return errors.Join(err, p.releaseAddresses(ctx, c, false))
	}
	d, err := p.open(ctx, address, c.log)
	if err != nil {
		return p.delWithout(ctx, c, address, err)
	}
	defer d.close()
	r, err := d.load(ctx)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		c.log.Debug("DEL: the VF has no record, nothing to put back")
		r, err = nil, nil
	case errors.Is(err, journal.ErrCorrupt):
		r, err = d.salvageForDel(c, err)
	case err != nil:
	case r.Phase == Free:
		r = nil
	case !r.Owner.is(c.ContainerID, c.IfName):
		c.log.Info("the VF has another owner by now: not touched", "owner", r.Owner.String())
		r = nil
	}
	if r == nil {
		released := p.releaseAddresses(ctx, c, false)
		if released == nil {
			released = d.acquit(c)
		}
		return errors.Join(err, released)
	}
	return errors.Join(err, d.withdraw(ctx, c, r))
}

// delWithout is for a VF that cannot be opened. That is a DEL's business only if the VF is its own.
func (p *Plugin) delWithout(ctx context.Context, c *call, address pci.Address, cause error) error {
	r, err := readRecord(p.Records, address.String())
	own := err == nil && c.owns(r)
	switch boot, _ := bootID(p.Root); {
	case errors.Is(cause, journal.ErrLocked):
		return errors.Join(cause, p.leaveMark(c, address), p.releaseAddresses(ctx, c, false))
	case errors.Is(err, journal.ErrNotExist):
		c.log.Debug("DEL: the VF has no record, nothing to put back", "error", cause)
	case errors.Is(cause, pci.ErrNoDevice), own && boot != "" && boot != r.Boot:
		c.log.Warn("the VF is no more: dropping its record")
		owed, failed := p.dropGone(ctx, address, func(r *Record) (bool, error) {
			return r == nil || r.Phase == Free || c.owns(r), p.releaseAddresses(ctx, c, r != nil && c.owns(r))
		})
		if owed != nil {
			c.log.Error("addresses of earlier owners of the VF are still taken", "error", owed)
		}
		return failed
	case err == nil && !own:
		c.log.Info("the VF is not this attachment's: not touched", "phase", r.Phase, "owner", r.Owner.String(), "error", cause)
	default:
		return errors.Join(cause, p.releaseAddresses(ctx, c, own))
	}
	return p.releaseAddresses(ctx, c, false)
}

// releaseAddresses runs the IPAM plugin. One that is not installed cannot have given anything, unless the VF's record says
// that this attachment got as far as to ask it.
func (p *Plugin) releaseAddresses(ctx context.Context, c *call, recorded bool) error {
	if c.cfg.IPAM == "" {
		return nil
	}
	if _, err := findPlugin(c.cfg.IPAM, c.Path); err != nil && !recorded {
		c.log.Warn("DEL: no addresses to release", "error", err)
		return nil
	}
	_, err := p.ipam(ctx, c, "DEL")
	return err
}

// salvageForDel is salvage for a DEL that may be of an old sandbox: a VF that somebody may be using stays as it is, with
// the record that cannot be read, for the VF's next ADD or an operator. The record is then nil.
func (d *device) salvageForDel(c *call, cause error) (*Record, error) {
	const hint = "once it is free, the next ADD resets it; or: vfctl restore --force"
	if d.vf.Driver != "" && !d.hasNetdev() {
		d.log.Error("the VF's record cannot be read, and who uses a VF without an interface cannot be seen: not touched", "error", cause, "hint", hint)
		return nil, nil
	}
	path, err := d.elsewhere(c.Netns)
	if err != nil {
		d.log.Error("the VF's record cannot be read, and its interface may be in another pod: not touched", "error", cause, "look", err, "hint", hint)
		return nil, nil
	}
	if path != "" {
		d.log.Error("the VF's record cannot be read, and its interface is in another pod: not touched", "error", cause, "netns", path, "hint", hint)
		return nil, nil
	}
	if used := d.usedAtHome(); used != nil {
		d.log.Error("the VF's record cannot be read, and the node itself uses its interface: not touched", "error", cause, "use", used, "hint", hint)
		return nil, nil
	}
	return d.salvage(c.owner(), cause)
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
		if r, err := readRecord(p.Records, key); err == nil && c.owns(r) {
			address, err := pci.ParseAddress(key)
			return address, coded(types.ErrIOFailure, err)
		}
	}
	if device := p.Theirs.Device(c.ContainerID, c.IfName); device != "" {
		address, err := pci.ParseAddress(device)
		return address, coded(types.ErrIOFailure, err)
	}
	return pci.Address{}, nil
}
