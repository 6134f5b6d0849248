package sriov

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// What the end of an attachment cannot do must not keep the VF from other pods for ever, where that takes nothing from
// anybody: a limit on its rate, a name that another interface has, addresses that the IPAM plugin does not take back. It is
// owed: it stays on the VF's record, and whoever works on the VF next tries again: an ADD, a DEL, a GC, an operator.

// An Owed is what is still to be done about a VF that is free, or somebody else's by now.
type Owed struct {
	Rate     *vf.Rate `json:"rate,omitempty"`     // igb sets none while the PF has no carrier
	Name     string   `json:"name,omitempty"`     // its own name on the host, which another interface has
	AltNames []string `json:"altNames,omitempty"` // likewise
	Leases   []Lease  `json:"leases,omitempty"`
}

// A Lease is the addresses of an owner that is no more. A plugin that is not installed any more is no reason to forget them:
// what it gave is still taken, in a store that it alone knows, and somebody may install it again.
type Lease struct {
	Owner      Owner       `json:"owner"`
	Invocation *Invocation `json:"invocation"`
	Fault      string      `json:"fault,omitempty"` // why the IPAM plugin did not take them back
}

// maxLeases bounds what one VF's record owes: a VF that owes more stays out of use.
const maxLeases = 16

// leaseWait is how long the IPAM plugins may take in all for what is owed: a pod that has nothing to do with it waits.
const leaseWait = 5 * time.Second

// IsEmpty reports whether nothing is owed.
func (o Owed) IsEmpty() bool { return len(o.Strings()) == 0 }

// Strings says what is owed, each in words for a person.
func (o Owed) Strings() (all []string) {
	if o.Rate != nil {
		all = append(all, fmt.Sprintf("its rate is to be %v again: the driver refuses that now", *o.Rate))
	}
	if o.Name != "" {
		all = append(all, fmt.Sprintf("it is to be called %s again: another interface has that name", o.Name))
	}
	if len(o.AltNames) > 0 {
		all = append(all, fmt.Sprintf("it is to have the alternative names %s again: other interfaces have them", strings.Join(o.AltNames, ", ")))
	}
	for _, l := range o.Leases {
		all = append(all, l.Fault)
	}
	return all
}

// add reports whether there is room for the lease.
func (o *Owed) add(l Lease) bool {
	o.drop(l.Owner)
	if len(o.Leases) >= maxLeases {
		return false
	}
	o.Leases = append(o.Leases, l)
	return true
}

// drop takes an owner's lease off, and reports whether there was one.
func (o *Owed) drop(owner Owner) bool {
	var rest []Lease
	for _, l := range o.Leases {
		if !l.Owner.is(owner.ContainerID, owner.IfName) {
			rest = append(rest, l)
		}
	}
	dropped := len(rest) != len(o.Leases)
	o.Leases = rest
	return dropped
}

// release gives back the addresses of an owner that is no more, by the configuration on record. Its error says that they
// are still taken; it has code 11.
func (p *Plugin) release(ctx context.Context, log *slog.Logger, key string, l Lease) error {
	if l.Invocation == nil {
		return nil
	}
	cfg, _, err := ParseForDel(l.Invocation.Config, l.Invocation.Args)
	if err == nil {
		dead := &call{cfg: cfg, log: log, CmdArgs: &cni.CmdArgs{
			ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName,
			Args: l.Invocation.Args, Path: l.Invocation.Path, StdinData: l.Invocation.Config,
		}}
		_, err = p.ipam(ctx, dead, "DEL")
	}
	switch {
	case err == nil:
		return nil
	case p.givesUp:
		log.Warn("the addresses of the VF's last owner are given up: the IPAM plugin may never give them out again", "owner", l.Owner.String(), "error", err)
		return nil
	}
	return &codedError{types.ErrTryAgainLater, fmt.Errorf("release the addresses of the last owner, %s: %w; mend the IPAM plugin, or give them up with: vfctl restore --force %s", l.Owner, err, key)}
}

// releaseFor is release for the owner that a record names.
func (p *Plugin) releaseFor(ctx context.Context, log *slog.Logger, key string, r *Record) error {
	return p.release(ctx, log, key, r.lease())
}

func (r *Record) lease() Lease { return Lease{Owner: r.Owner, Invocation: r.Invocation} }

// pay has the leases released that the record owes. Those that still are not stay on it, and are the error.
func (p *Plugin) pay(ctx context.Context, log *slog.Logger, key string, r *Record) error {
	if len(r.Owed.Leases) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	serving := p.owners(key)
	var rest []Lease
	var errs []error
	for _, l := range r.Owed.Leases {
		// An IPAM plugin knows addresses by container and interface. Where that one has a VF again its DEL releases them all.
		if serving[[2]string{l.Owner.ContainerID, l.Owner.IfName}] {
			continue
		}
		if err := p.release(ctx, log, key, l); err != nil {
			l.Fault = oneLine(err)
			rest, errs = append(rest, l), append(errs, err)
		}
	}
	r.Owed.Leases = rest
	return errors.Join(errs...)
}

// owners are the container and the interface of every attachment on record in this boot, but for one VF's.
func (p *Plugin) owners(except string) map[[2]string]bool {
	all := map[[2]string]bool{}
	keys, err := p.Records.Keys()
	boot, bootErr := bootID(p.Root)
	if err = errors.Join(err, bootErr); err != nil {
		p.Log.Warn("cannot look for other attachments of those that addresses are owed of", "error", err)
	}
	for _, key := range keys {
		if r, err := readRecord(p.Records, key); err == nil && key != except && r.Phase != Free && r.Boot == boot {
			all[[2]string{r.Owner.ContainerID, r.Owner.IfName}] = true
		}
	}
	return all
}

// honour tries to do what an earlier end of an attachment on this VF could not, before a new one. What it cannot do either
// goes with the new one's record.
func (d *device) honour(ctx context.Context, r *Record) {
	if err := d.p.pay(ctx, d.log, d.key(), r); err != nil {
		d.log.Error("addresses of earlier owners of the VF are still taken", "error", err)
	}
	if r.Owed.Rate != nil {
		if errs := d.host.WriteEach(d.pf, d.id.Index, vf.Settings{Rate: r.Owed.Rate}); len(errs) > 0 {
			d.log.Warn("the VF keeps the rate of an earlier owner for now", "error", errors.Join(errs...))
		} else {
			r.Owed.Rate = nil
		}
	}
	d.owed = r.Owed
}

// payFree is pay for a free VF.
func (d *device) payFree(ctx context.Context, r *Record) error {
	before := len(r.Owed.Leases)
	owed := d.p.pay(ctx, d.log, d.key(), r)
	switch {
	case len(r.Owed.Leases) == before:
		return owed
	case r.Salvaged:
		return errors.Join(owed, d.forget(r))
	}
	return errors.Join(owed, d.write(r))
}

// owedLeases is the error, with code 11, for those who came to have everything done.
func owedLeases(o Owed) error {
	var errs []error
	for _, l := range o.Leases {
		errs = append(errs, &codedError{types.ErrTryAgainLater, errors.New(l.Fault)})
	}
	return errors.Join(errs...)
}

// acquit takes an attachment's lease off the VF's record: its own DEL came after all, and released it.
func (d *device) acquit(c *call) error {
	r, err := readRecord(d.p.Records, d.key())
	if err != nil || !r.Owed.drop(c.owner()) {
		return nil //nolint:nilerr // nothing is owed
	}
	if r.Salvaged && r.Phase == Free {
		return d.forget(r)
	}
	return d.write(r)
}

// forget closes a record of whose baseline nothing is known, or nothing that still counts: the next ADD takes a new one. The
// record only stays for what it owes.
func (d *device) forget(r *Record) error {
	d.owed = r.Owed
	if r.Owed.IsEmpty() {
		return coded(types.ErrIOFailure, d.p.Records.Remove(d.key()))
	}
	*r = Record{
		Boot: d.boot, Phase: Free, Identity: d.id, Salvaged: true, Owed: r.Owed,
		Baseline: Baseline{Settings: vf.Settings{Rate: r.Owed.Rate}},
	}
	return d.write(r)
}

// dropGone drops the record of a VF that is no more, and what is beside it, if mayGo says so. mayGo is asked under the lock,
// about nil if the record cannot be read; such a record is kept aside. owed is why a record stays for what it owes.
func (p *Plugin) dropGone(ctx context.Context, address pci.Address, mayGo func(*Record) (bool, error)) (owed, err error) {
	key := address.String()
	wait, cancel := context.WithTimeout(ctx, p.LockWait)
	defer cancel()
	lock, err := p.Records.Lock(wait, key)
	if err != nil {
		return nil, coded(types.ErrTryAgainLater, err)
	}
	r, unreadable := readRecord(p.Records, key)
	if unreadable != nil {
		r = nil
	}
	if ok, err := mayGo(r); err != nil || !ok {
		return nil, errors.Join(err, lock.Unlock())
	}
	if unreadable != nil && !errors.Is(unreadable, journal.ErrNotExist) {
		path, err := p.Records.SetAside(key)
		if err != nil {
			return nil, coded(types.ErrIOFailure, errors.Join(err, lock.Unlock()))
		}
		p.Log.Error("the record of a VF that is no more cannot be read: kept it aside", "vf", key, "error", unreadable, "record", path)
	}
	_ = os.Remove(p.markPath(key))
	if r != nil {
		if owed = p.pay(ctx, p.Log.With("vf", key), key, r); owed != nil {
			r = &Record{Boot: r.Boot, Phase: Free, Identity: r.Identity, Salvaged: true, Owed: Owed{Leases: r.Owed.Leases}}
			return owed, coded(types.ErrIOFailure, errors.Join(p.Records.Write(key, r), lock.Unlock()))
		}
	}
	return nil, coded(types.ErrIOFailure, errors.Join(p.Records.Remove(key), lock.UnlockAndRemove()))
}
