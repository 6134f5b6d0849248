package vf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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
