package vf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtextSkipStats leaves the counters of every VF out of an answer, which otherwise outgrows an attribute's 64 KiB at some
// 222 VFs.
const (
	rtextVF        = 1 << 0
	rtextSkipStats = 1 << 3
)

// settleTime bounds Settle: i40e applies a MAC after it has reset the VF, which takes it some hundred milliseconds.
const settleTime = 3 * time.Second

// settleWrites is how often Settle sets again what a driver lost.
const settleWrites = 3

// Read reads the entry of VF number index. Errors wrap ErrNoVF, ErrNoDevice, ErrTooManyVFs, or what the
// kernel answered.
func (c *Conn) Read(pf PF, index int) (Settings, error) {
	c.Count.PFReads++
	l, err := c.one(pf.Index, rtextVF|rtextSkipStats)
	if err != nil {
		return Settings{}, fmt.Errorf("read VF %d of %s: %w", index, pf.Address, err)
	}
	if l.Address != "" && l.Address != pf.Address {
		return Settings{}, fmt.Errorf("read VF %d of %s: %w: index %d is %s now, of %s", index, pf.Address, ErrNoDevice, pf.Index, l.Name, l.Address)
	}
	return entry(l, pf, index)
}

func entry(l link, pf PF, index int) (Settings, error) {
	s, err := parseVFInfo(l.vfs, index)
	if errors.Is(err, ErrNoVF) && index < l.numVFs {
		err = fmt.Errorf("%w: it has %d", ErrTooManyVFs, l.numVFs)
	}
	if err != nil {
		return Settings{}, fmt.Errorf("read VF %d of %s: %w", index, pf.Address, err)
	}
	return s, nil
}

// Write sets all that s says in one message. If the driver refuses one attribute the kernel keeps those before it; then
// they are set one by one, so that the error, a *Refused, names the culprit.
func (c *Conn) Write(pf PF, index int, s Settings) error {
	attributes := s.attributes(index)
	if len(attributes) == 0 {
		return nil
	}
	err := c.write(pf, attributes)
	if err == nil {
		return nil
	}
	for _, a := range attributes {
		if err := c.write(pf, []attribute{a}); err != nil {
			return refusedVF(pf, index, a, err)
		}
	}
	// Each alone was taken: a busy driver, or one that minds their order.
	return nil
}

func refusedVF(pf PF, index int, a attribute, err error) *Refused {
	return &Refused{Device: fmt.Sprintf("VF %d of %s", index, pf.Address), Attribute: a.name, Value: a.value, Settings: a.part, Err: err}
}

func (c *Conn) write(pf PF, attributes []attribute) error {
	c.Count.PFWrites++
	r := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, pf.Index, 0, 0)
	r.AddData(vfInfoList(attributes))
	return c.set(r)
}

// WriteEach sets what s says one attribute at a time and goes on after a refusal: for restoring, where as much as possible
// is to be put back. It returns every refusal.
func (c *Conn) WriteEach(pf PF, index int, s Settings) []error {
	refused, errs := setEach(s.attributes(index), func(some []attribute) error { return c.write(pf, some) })
	for i, a := range refused {
		errs[i] = refusedVF(pf, index, a, errs[i])
	}
	return errs
}

// setEach sets all in one message if that is taken, else each alone, and returns what is refused and why. That is tried once more
// where others were taken after it: mlx4 and older mlx5 take no zero MAC for a VF whose spoof check is still on (EPERM), and no
// spoof check for one whose MAC is still zero.
func setEach(attributes []attribute, set func([]attribute) error) (refused []attribute, errs []error) {
	if len(attributes) == 0 || set(attributes) == nil {
		return nil, nil
	}
	each := func(attributes []attribute) (refused []attribute, errs []error) {
		for _, a := range attributes {
			if err := set([]attribute{a}); err != nil {
				refused, errs = append(refused, a), append(errs, err)
			}
		}
		return refused, errs
	}
	if refused, errs = each(attributes); len(refused) < len(attributes) {
		return each(refused)
	}
	return refused, errs
}

// Settle reads the VF's entry until it is as wanted. What stays different it sets again, some times, since drivers that
// reset a VF lose settings made meanwhile. Attributes that the driver does not report pass. The error wraps ErrUnsettled
// and says what differs, also when ctx ends, or is a *Refused; the entry as last read comes with it. If it cannot be read, the error
// is Read's.
func (c *Conn) Settle(ctx context.Context, pf PF, index int, want Settings) (Settings, error) {
	live, err := settle(ctx, want,
		func() (Settings, error) { return c.Read(pf, index) },
		func(diff Settings) error { return c.Write(pf, index, diff) })
	if errors.Is(err, ErrUnsettled) {
		err = fmt.Errorf("VF %d of %s: %w", index, pf.Address, err)
	}
	return live, err
}

func settle(ctx context.Context, want Settings, read func() (Settings, error), write func(Settings) error) (Settings, error) {
	deadline := time.Now().Add(settleTime)
	wait, nextWrite, writes := poll, time.Now().Add(100*time.Millisecond), 0
	for {
		live, err := read()
		if err != nil {
			return live, err
		}
		diff := unsettled(live, want)
		if diff.IsEmpty() {
			return live, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return live, fmt.Errorf("%w: wanted %v, the PF shows %v", ErrUnsettled, diff, live)
		}
		if writes < settleWrites && time.Now().After(nextWrite) {
			writes++
			nextWrite = time.Now().Add(500 * time.Millisecond)
			if err := write(diff); err != nil {
				return live, err
			}
		}
		time.Sleep(wait)
		wait = min(2*wait, 200*time.Millisecond)
	}
}

func (c *Conn) attr(r *nl.NetlinkRequest, kind int, data []byte) { r.AddData(nl.NewRtAttr(kind, data)) }
