package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// restore puts the VF back to the record's baseline and closes the record. It tries everything; what it could not do is
// in the error and in the record, which then stays open. paths are namespaces where the interface may be.
func (d *device) restore(ctx context.Context, r *Record, paths ...string) error {
	return d.closeRecord(r, d.putBack(ctx, r, paths...))
}

// withdraw ends an attachment: it puts the VF back and releases the addresses, and only then closes the record, so that
// whatever is not done yet has somebody to do it.
func (d *device) withdraw(ctx context.Context, c *call, r *Record) error {
	steps := []func() error{
		func() error { return d.releaseOwn(ctx, c, r) },
		func() error { return d.putBack(ctx, r, c.Netns) },
	}
	// A DHCP client has to say goodbye over the interface, so IPAM comes first; but once the namespace has gone nothing is
	// more urgent than the VF.
	if !exists(c.Netns) {
		slices.Reverse(steps)
	}
	err := errors.Join(steps[0](), steps[1]())
	r.Owed.drop(r.Owner) // from now on its own DEL sees to it
	d.payFor(ctx, r)
	return d.closeRecord(r, err)
}

// releaseOwn releases the attachment's addresses by the call's configuration, and by the one that they were given by if that has
// another ipam section: the definition may have changed since, and the runtime may have forgotten what it was.
func (d *device) releaseOwn(ctx context.Context, c *call, r *Record) error {
	err := d.p.releaseAddresses(ctx, c, true)
	if r.Invocation != nil && !sameIPAM(r.Invocation.Config, c.StdinData) {
		err = errors.Join(err, d.p.releaseFor(ctx, d.log, d.key(), r))
	}
	return err
}

func sameIPAM(a, b []byte) bool {
	section := func(config []byte) string {
		var c struct{ IPAM any }
		_ = json.Unmarshal(config, &c) // what cannot be read has none
		text, _ := json.Marshal(c.IPAM)
		return string(text)
	}
	return section(a) == section(b)
}

// retire ends the attachment of an owner that is no more, as withdraw does, by what is on record of it. Addresses that
// cannot be released are owed.
func (d *device) retire(ctx context.Context, r *Record) error {
	r.Owed.drop(r.Owner)
	d.payFor(ctx, r)
	released := d.p.releaseFor(ctx, d.log, d.key(), r)
	if released != nil {
		lease := r.lease()
		lease.Fault = oneLine(released)
		if r.Owed.add(lease) {
			d.log.Error("the addresses of the VF's last owner are still taken, and tried again with the VF's next pod", "error", released)
			released = nil
		}
	}
	return d.closeRecord(r, errors.Join(released, d.putBack(ctx, r)))
}

// payFor is pay for those who have more to do.
func (d *device) payFor(ctx context.Context, r *Record) {
	if err := d.p.pay(ctx, d.log, d.key(), r); err != nil {
		d.log.Error("addresses of earlier owners of the VF are still taken", "error", err)
	}
}

func exists(path string) bool {
	ns, err := netns.Open(path)
	if err != nil {
		return false
	}
	_ = ns.Close()
	return true
}

// putBack makes the VF what it was; what may wait is owed. The errors have code 11 if they have no other.
func (d *device) putBack(ctx context.Context, r *Record, paths ...string) error {
	have, base := r.Baseline.Settings.With(r.Wanted), r.Baseline
	if r.Phase != Attached || r.Owed.Rate != nil || d.rebound(r) {
		// Somebody may have been killed at any point: look instead of assuming.
		if live, err := d.host.Read(d.pf, d.id.Index); err == nil {
			have = live
		}
	}
	r.Phase = Removing
	r.Owed = Owed{Leases: r.Owed.Leases} // the rest is in the baseline, and tried anew
	err := d.write(r)
	// A full disk must not keep a VF in a dead pod's VLAN: the record says enough as it is.
	errs := []error{err}

	if d.rebound(r) {
		d.log.Warn("somebody has given the VF another driver since: its interface is no more, and only what the PF has still as the attachment set it is taken back",
			"then", r.Identity.Driver, "now", d.id.Driver)
		base = base.under(have, r)
	}
	if !r.Salvaged && base.Netdev != nil {
		errs = append(errs, d.bringHome(r, append(paths, r.Netns.Path)))
	}
	// Without its interface at hand, too: what the PF enforces is undone at once. What is refused here shows in settle.
	meanwhile := interim(base, have)
	refused := d.host.WriteEach(d.pf, d.id.Index, vf.Plan(have, meanwhile))
	switch {
	case base.Netdev == nil:
	case r.Salvaged:
		// Nothing is known of the interface, so nothing of it is to stay; wherever it is, this brings a new one home.
		_, err = d.rebind(r.Identity.Driver)
		errs = append(errs, err)
	default:
		free := meanwhile.MAC != nil && meanwhile.MAC.IsZero()
		err = d.resetNetdev(ctx, r, free)
		if no, ok := errors.AsType[*vf.Refused](err); ok && len(r.Faults) > 0 {
			err = d.renew(ctx, r, free, no)
		}
		errs = append(errs, err)
	}
	if err = errors.Join(append(errs, d.settle(ctx, r, base.Settings, refused))...); err != nil {
		return coded(types.ErrTryAgainLater, fmt.Errorf("put VF %s back: %w", d.key(), err))
	}
	return nil
}

// renew gives the VF a new interface in place of one that does not go back to what it was, now for the second time: what a pod may
// do to one, such as rules for queues that are to go, is more than can be looked for one by one. All of it ends with the driver.
func (d *device) renew(ctx context.Context, r *Record, free bool, refused error) error {
	dev, home := d.atHome()
	if !home {
		return refused
	}
	if err := refuseUplink(dev); err != nil {
		return errors.Join(refused, err)
	}
	d.log.Warn("the VF's interface does not go back to what it was: binding its driver again, for a new one", "error", refused)
	if _, err := d.rebind(r.Identity.Driver); err != nil {
		return errors.Join(refused, err)
	}
	return d.resetNetdev(ctx, r, free)
}

// settle sees to it that the PF's entry becomes as wanted. refused is what the driver did not take of it so far.
func (d *device) settle(ctx context.Context, r *Record, want vf.Settings, refused []error) error {
	live, err := d.settleWhatCan(r, want, func(s vf.Settings) (vf.Settings, error) {
		return d.host.Settle(ctx, d.pf, d.id.Index, s)
	})
	left := unseen(live, refused, r.Wanted.MAC)
	if err != nil || left.IsEmpty() {
		return err
	}
	return settleUnseen(left, r.Baseline.spareMAC(), func(s vf.Settings) (err error) {
		if s.MAC != nil && !s.MAC.IsZero() {
			d.log.Warn("the PF's driver takes no zero MAC: the VF's entry gets its own, not to keep the pod's", "mac", s.MAC.String())
		}
		for range 5 {
			if err = errors.Join(d.host.WriteEach(d.pf, d.id.Index, s)...); err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return err
	})
}

// settleUnseen writes what is left. Where the driver takes no zero MAC (be2net, cxgb4 and qede are such), the VF gets own in place
// of the pod's, which must not go to the next one.
func settleUnseen(left vf.Settings, own vf.MAC, write func(vf.Settings) error) error {
	var errs []error
	if left.MAC != nil {
		err := write(vf.Settings{MAC: left.MAC})
		if err != nil && !errors.Is(err, vf.ErrBusy) && write(vf.Settings{MAC: &own}) == nil {
			err = nil
		}
		errs = append(errs, err)
		left.MAC = nil
	}
	if !left.IsEmpty() {
		errs = append(errs, write(left))
	}
	return errors.Join(errs...)
}

// spareMAC is the VF's own, or any that nobody else has, of one whose own was never seen.
func (b Baseline) spareMAC() (mac vf.MAC) {
	if b.Netdev != nil && !b.Netdev.MAC.IsZero() {
		return b.Netdev.MAC
	}
	for i := range mac {
		mac[i] = byte(rand.Uint32())
	}
	mac[0] = mac[0]&^1 | 2 // of one station, and locally administered
	return mac
}

// settleWhatCan leaves out what may wait, or can never be.
func (d *device) settleWhatCan(r *Record, want vf.Settings, settle func(vf.Settings) (vf.Settings, error)) (vf.Settings, error) {
	for {
		live, err := settle(want)
		no, ok := errors.AsType[*vf.Refused](err)
		switch {
		case !ok || no.Settings.IsEmpty():
			return live, err
		case no.Settings.Rate != nil:
			// It takes nothing from others, and the driver may refuse it as long as the cable is away.
			d.log.Warn("the VF's rate cannot be put back now: it is tried again with the VF's next pod", "error", err)
			r.Owed.Rate = no.Settings.Rate
		case r.Salvaged && errors.Is(err, vf.ErrUnsupported):
			d.log.Error("the VF's driver cannot make the VF safe in this, and leaves it as it is", "error", err, "is", live)
		default:
			return live, err
		}
		want = vf.Plan(no.Settings, want)
	}
}

// unseen is what a driver refused that can do it, because it is busy say, and nobody sees to be missing: what it does not show,
// and the pod's MAC, of which Settle knows only that the VF may choose any.
func unseen(live vf.Settings, refused []error, pods *vf.MAC) (left vf.Settings) {
	for _, err := range refused {
		no, ok := errors.AsType[*vf.Refused](err)
		if !ok || errors.Is(err, vf.ErrUnsupported) {
			continue
		}
		left = left.With(vf.Plan(no.Settings.Of(live), no.Settings))
		if mac := no.Settings.MAC; mac != nil && mac.IsZero() && live.MAC != nil && pods != nil && *live.MAC == *pods {
			left.MAC = mac
		}
	}
	return left
}

// rebound reports whether somebody has given the VF another driver since the record was opened, vfio-pci say, and may be
// using it so: that is not fought. A VF without a driver is on its way to one, by us who were killed or by somebody else.
func (d *device) rebound(r *Record) bool {
	if d.id.Driver != "" {
		return d.id.Driver != r.Identity.Driver
	}
	b, err := os.ReadFile(filepath.Join(d.p.Root, "sys/bus/pci/devices", d.key(), "driver_override"))
	override := strings.TrimSpace(string(b))
	return err == nil && override != "" && override != "(null)" && override != r.Identity.Driver
}

// under is what is left of a baseline when the VF has another driver: of the settings those that its PF has still as the
// attachment made them, or does not show.
func (b Baseline) under(have vf.Settings, r *Record) Baseline {
	if r.Salvaged {
		return Baseline{Settings: b.Settings}
	}
	set := vf.Plan(b.Settings, r.Wanted)
	others := vf.Plan(have, set).Of(have)
	s := b.Settings.Of(vf.Plan(others, set))
	if s.MAC != nil && b.ownMAC() {
		s.MAC = new(vf.MAC)
	}
	return Baseline{Settings: s}
}

// interim is what the PF is to enforce until the interface has its own MAC again: with the zero MAC on the PF the VF may
// choose, and takes its old one back. Where another MAC was set there before, settle puts it back after that.
func interim(b Baseline, have vf.Settings) vf.Settings {
	s := b.Settings
	if b.Netdev == nil || s.MAC == nil || have.MAC == nil {
		return s
	}
	if *have.MAC == *s.MAC {
		s.MAC = nil
	} else {
		s.MAC = new(vf.MAC)
	}
	return s
}

// closeRecord writes down how it ended.
func (d *device) closeRecord(r *Record, err error) error {
	if err != nil {
		r.Faults = strings.Split(err.Error(), "\n")
		return errors.Join(err, d.write(r))
	}
	d.dropMark()
	if r.Salvaged || d.rebound(r) {
		return d.forget(r) // safe defaults are no baseline, nor is what the VF was with another driver
	}
	d.owed = r.Owed
	r.Identity = d.id // it may have its driver anew
	r.Phase, r.Owner, r.Netns, r.Wanted, r.Invocation, r.Faults = Free, Owner{}, Place{}, vf.Settings{}, nil, nil
	return d.write(r)
}
