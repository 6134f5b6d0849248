package vf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A lateDriver applies what was set on it after a while, as i40e and iavf do after they have reset the VF; loses says how
// many times it forgets it in its reset.
type lateDriver struct {
	entry, pending Settings
	since          time.Time
	after          time.Duration
	loses, writes  int
}

func (d *lateDriver) write(s Settings) error {
	d.writes++
	if d.loses > 0 {
		d.loses--
		return nil
	}
	d.pending, d.since = s, time.Now()
	return nil
}

func (d *lateDriver) read() (Settings, error) {
	if !d.pending.IsEmpty() && time.Since(d.since) >= d.after {
		d.entry, d.pending = d.entry.With(d.pending), Settings{}
	}
	return d.entry, nil
}

func TestSettle(t *testing.T) {
	want := Settings{MAC: &MAC{2, 0, 0, 0, 0, 1}, Trust: new(true)}
	tests := map[string]struct {
		driver lateDriver
		writes int // with the first, which is not settle's
		err    error
	}{
		"at once":                {lateDriver{}, 1, nil},
		"late":                   {lateDriver{after: 80 * time.Millisecond}, 1, nil},
		"later than a new try":   {lateDriver{after: 300 * time.Millisecond}, 2, nil},
		"lost once":              {lateDriver{loses: 1}, 2, nil},
		"lost as often as tried": {lateDriver{loses: 100}, 1 + settleWrites, ErrUnsettled},
		"never":                  {lateDriver{after: time.Hour}, 1 + settleWrites, ErrUnsettled},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := tt.driver
				d.entry = Settings{MAC: &MAC{}, Trust: new(false)}
				if err := d.write(want); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				live, err := settle(t.Context(), want, d.read, d.write)
				if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				if err == nil {
					if diff := cmp.Diff(want, live); diff != "" {
						t.Error(diff)
					}
				}
				if d.writes != tt.writes {
					t.Errorf("%d writes, want %d", d.writes, tt.writes)
				}
				if took := time.Since(start); took > settleTime+time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A driver that takes a value only to refuse it on the next try, and a caller who does not wait.
func TestSettleGivesUp(t *testing.T) {
	want, refused := Settings{Trust: new(true)}, errors.New("refused")
	read := func() (Settings, error) { return Settings{Trust: new(false)}, nil }
	synctest.Test(t, func(t *testing.T) {
		if _, err := settle(t.Context(), want, read, func(Settings) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("got %v, want the driver's refusal", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if _, err := settle(ctx, want, read, func(Settings) error { return nil }); !errors.Is(err, ErrUnsettled) || time.Since(start) > 0 {
			t.Errorf("got %v after %v, want ErrUnsettled at once", err, time.Since(start))
		}
	})
}

// mlx4 is a VF's entry with mlx4's rule (mlx4_set_vf_mac, mlx4_set_vf_spoofchk): there is no spoof check of a zero MAC. A message
// is carried out up to the attribute that is refused.
type mlx4 struct{ entry Settings }

func (m *mlx4) set(attributes []attribute) error {
	for _, a := range attributes {
		next := m.entry.With(a.part)
		if next.MAC.IsZero() && *next.SpoofCheck {
			return unix.EPERM
		}
		m.entry = next
	}
	return nil
}

// A pod's MAC must not stay on a VF because its spoof check was still on when it was to go.
func TestSetEachMindsNoOrder(t *testing.T) {
	fresh := Settings{MAC: &MAC{}, SpoofCheck: new(false), Trust: new(false)}
	pods := Settings{MAC: &MAC{2, 0, 0, 0, 0, 1}, SpoofCheck: new(true), Trust: new(true)}
	for name, tt := range map[string]struct {
		have, want Settings
		after      Settings
		refused    []string
	}{
		"to a pod":     {have: fresh, want: pods, after: pods},
		"back":         {have: pods, want: fresh, after: fresh},
		"not possible": {have: fresh, want: fresh.With(Settings{SpoofCheck: new(true), Trust: new(true)}), after: fresh.With(Settings{Trust: new(true)}), refused: []string{"spoofchk"}},
	} {
		m := &mlx4{tt.have}
		var refused []string
		left, errs := setEach(tt.want.attributes(0), m.set)
		for i, a := range left {
			if !errors.Is(errs[i], unix.EPERM) {
				t.Errorf("%s: %v", name, errs[i])
			}
			refused = append(refused, a.name)
		}
		if d := cmp.Diff(tt.after, m.entry); d != "" {
			t.Errorf("%s: -want +got:\n%s", name, d)
		}
		if d := cmp.Diff(tt.refused, refused); d != "" {
			t.Errorf("%s: refused: -want +got:\n%s", name, d)
		}
	}
}
