//go:build cluster

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	surviveFor  = flag.Duration("survive-for", 0, "TestSurvive strikes at random with all faults for so long, instead of once with each of a third")
	surviveTurn = flag.Uint("survive-turn", uint(time.Now().Unix()/86400), "which third; the days take turns, and so do runs with -count")
	surviveSeed = flag.Uint64("survive-seed", 0, "the order of -survive-for; 0 is a new one, which the table tells")
)

// turns is in how many days CI does each fault.
const turns = 3

// TestSurvive has one thing after another go wrong on a node where pods hold VFs and others come and go. After each fault
// the pods that hold VFs have the same containers, VFs and settings as before; the pods that were to start meanwhile run; all
// other VFs can be given to one more pod; and when the pods that came and went are gone, nothing of them is left.
func TestSurvive(t *testing.T) {
	keepTheAPIServer(t)
	nameVFs(t)
	leaveNothing(t)
	s := newSurvival(t)
	deck := faults()
	if *surviveFor == 0 {
		defer func() { *surviveTurn++ }()
		s.order = fmt.Sprintf("a third of the faults, `make test-survive TURN=%d`", *surviveTurn)
		for i := int(*surviveTurn % turns); i < len(deck); i += turns {
			if !s.strike(t, deck[i]) || t.Failed() {
				return // what comes after one that left something would fail for that
			}
		}
		return
	}
	s.order = fmt.Sprintf("at random, `make survive SURVIVE=%s SEED=%d`", *surviveFor, s.seed)
	// Shuffled over and over: in any order, and none is left out for long.
	for until := s.began.Add(*surviveFor); time.Now().Before(until); {
		s.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, f := range deck {
			if time.Now().Before(until) && !s.strike(t, f) || t.Failed() {
				return
			}
		}
	}
}

// A fault is something that goes wrong on the node. Strike returns when it is over.
type fault struct {
	name   string
	strike func(t *testing.T, s *survival)
	rest   bool // it is about who has which VF: afterwards one pod gets all that are free
}

// A survival is one run of TestSurvive.
type survival struct {
	order   string // what the table says of it
	seed    uint64
	random  *rand.Rand
	began   time.Time
	holders []holder // hold VFs for all of the run
	settled picture  // the node with the holders alone
	stream  *stream
	rows    []row
}

// A holder is a pod that runs through everything, and how it was before.
type holder struct {
	pod
	device    string
	address   string
	container struct{ ID, Phase string }
	inside    string
}

// A row is one of the table.
type row struct {
	fault          string
	at, lasted     time.Duration // since the run began
	well           time.Duration // from the fault's end until all was well
	alive, delayed int           // pods
	lost           []string      // VFs
}

func newSurvival(t *testing.T) *survival {
	t.Helper()
	s := &survival{seed: *surviveSeed, began: time.Now()}
	if s.seed == 0 {
		s.seed = uint64(s.began.UnixNano()) % 1e6
	}
	s.random = rand.New(rand.NewPCG(s.seed, 0))
	for _, networks := range []string{`[{"name": "vlan100", "mac": "02:00:00:00:64:51"}]`, "vlan100"} {
		p := pod{name: fmt.Sprintf("stays-%d", len(s.holders)), networks: networks, vfs: 1}
		p.create(t)
		s.holders = append(s.holders, holder{pod: p})
	}
	for i := range s.holders {
		h := &s.holders[i]
		h.running(t)
		h.device, h.address, h.container = h.devices(t)[0], h.status(t)[1].IPs[0], h.pod.container(t)
	}
	for i := range s.holders {
		h, other := &s.holders[i], s.holders[1-i].address
		eventually(t, h.name+" to reach "+other, func(ctx context.Context) (err error) {
			h.inside, err = h.look(ctx, other)
			return err
		})
	}
	// Not while a plugin works on a pod of before, whose lock would be missed for ever.
	eventually(t, "the node to be at rest", func(context.Context) (err error) {
		if err := noPlugins(t); err != nil {
			return err
		}
		s.settled, err = look()
		return errors.Join(err, noPlugins(t))
	})
	t.Cleanup(func() { s.report(t) }) // when nothing comes and goes any more
	s.stream = startStream(t, s.held())
	s.stream.another(t, "before the first fault")
	return s
}

// look is how the pod sees its VF, and whether frames go from it to another one.
func (h holder) look(ctx context.Context, other string) (string, error) {
	return h.exec(ctx, "sh", "-c", `ip addr show net1 | grep -oE 'link/ether [0-9a-f:]+|inet [0-9./]+|,UP|mtu [0-9]+'
		ping -c 1 -W 3 -I net1 `+other+` > /dev/null && echo reaches `+other)
}

// strike has f happen and end, and tells whether all was well afterwards.
func (s *survival) strike(t *testing.T, f fault) bool {
	return t.Run(f.name, func(t *testing.T) {
		r := row{fault: f.name, at: time.Since(s.began)}
		defer func() { s.rows = append(s.rows, r) }()
		s.stream.mark()
		f.strike(t, s)
		over := time.Now()
		r.lasted = over.Sub(s.began) - r.at
		eventually(t, "the device plugin to be ready", pluginIsReady)
		eventually(t, "the node to offer its VFs", s.offers(len(s.settled.VFs)))
		r.delayed = s.stream.pause(t, over)
		defer s.stream.resume()
		r.lost = s.settle(t)
		r.alive = s.unharmed(t)
		if f.rest {
			s.takeTheRest(t)
		}
		r.well = time.Since(over)
	})
}

// offers asks whether the node offers n VFs.
func (s *survival) offers(n int) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := allocatable(ctx)
		if err == nil && got != n {
			err = fmt.Errorf("it offers %d, want %d", got, n)
		}
		return err
	}
}

// settle waits until the node is as it was with the holders alone. It returns the VFs that are not.
func (s *survival) settle(t *testing.T) (lost []string) {
	t.Helper()
	var now picture
	err := poll(t.Context(), func(context.Context) (err error) {
		if now, err = look(); err != nil {
			return err
		}
		if diff := cmp.Diff(s.settled, now); diff != "" {
			return fmt.Errorf("it differs (-before +now):\n%s", diff)
		}
		return noPlugins(t)
	})
	if err == nil {
		return nil
	}
	t.Errorf("waiting for the node to be as it was with the pods that stay: %v", err)
	for address, v := range s.settled.VFs {
		if !cmp.Equal(v, now.VFs[address]) {
			lost = append(lost, address)
		}
	}
	return lost
}

// noPlugins says which of our plugins still run, with no pod on its way.
func noPlugins(t *testing.T) (err error) {
	for _, name := range []string{"meta-cni", "sriov", "host-local"} {
		if pids := processes(t, name); len(pids) > 0 {
			err = errors.Join(err, fmt.Errorf("%s runs as %v", name, pids))
		}
	}
	return err
}

// unharmed checks the pods that stay, and returns how many there are: from outside, from inside, and whether frames go from
// one to the other.
func (s *survival) unharmed(t *testing.T) (alive int) {
	t.Helper()
	for i, h := range s.holders {
		if diff := cmp.Diff(h.container, h.pod.container(t)); diff != "" {
			t.Errorf("container of %s (-before +now):\n%s", h.name, diff)
			continue
		}
		alive++
		eventually(t, h.name+" to see its VF as before, and to reach the other", func(ctx context.Context) error {
			inside, err := h.look(ctx, s.holders[1-i].address)
			if err == nil && inside != h.inside {
				err = fmt.Errorf("it sees (-before +now):\n%s", cmp.Diff(h.inside, inside))
			}
			return err
		})
	}
	return alive
}

// held are the VFs of the pods that stay.
func (s *survival) held() (devices []string) {
	for _, h := range s.holders {
		devices = append(devices, h.device)
	}
	return devices
}

// takeTheRest has one pod ask for all VFs that the holders do not have.
func (s *survival) takeTheRest(t *testing.T) {
	t.Helper()
	p := pod{name: fmt.Sprintf("rest-%d", len(s.rows)), vfs: len(s.settled.VFs) - len(s.holders)}
	p.create(t)
	p.running(t)
	got := p.devices(t)
	if slices.ContainsFunc(s.held(), func(h string) bool { return slices.Contains(got, h) }) || len(got) != p.vfs {
		t.Errorf("the next pod has %v: want the %d that no other pod has", got, p.vfs)
	}
	p.remove(t.Context(), t)
}

// report prints the table.
func (s *survival) report(t *testing.T) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, "| fault | struck at | lasted | all well after | pods alive through it | pods delayed | VFs lost |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|")
	lost := 0
	for _, r := range s.rows {
		lost += len(r.lost)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d of %d | %d | %d |\n",
			r.fault, seconds(r.at), seconds(r.lasted), seconds(r.well), r.alive, len(s.holders), r.delayed, len(r.lost))
	}
	fmt.Fprintf(&b, "\n%s, %s: %d faults in %s; %s; %d VFs lost.\n", s.began.UTC().Format("2006-01-02"), s.order, len(s.rows),
		time.Since(s.began).Round(time.Second), s.stream.summary(), lost)
	t.Log("\n\n" + b.String())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }
