//go:build lab

package sriov_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

var (
	crashFull = flag.Bool("crash-full", false, "every point with every recovery, instead of one each in rotation")
	crashTurn = flag.Int("crash-turn", int(time.Now().Unix()/86400), "where the rotation begins; each day has its own")
)

// A scenario is a verb that is to be killed, and what has led to it.
type scenario struct {
	name   string
	dpdk   bool                // on a VF that vfio-pci has
	more   conf                // besides what full says
	before func(s *site) error // what comes before the verb
	verb   string              // what is killed
	finish func(s *site) error // after the recovery: what the runtime still owes, and what only a person can mend
	only   string              // kill only at points that say so
	child  bool                // the IPAM plugin is killed, not ours
	// CI kills before each call only, as after it is before the next. It reboots after no rare one, and kills sampled ones at
	// every third point: in three days at all.
	rare, sampled bool
}

func (sc scenario) kill(at int, after bool) tracetest.Kill {
	return tracetest.Kill{At: at, After: after, Child: sc.child, Of: func(c tracetest.Call) bool { return strings.Contains(c.String(), sc.only) }}
}

// A site is one try: a VF that is as it was before, a pod, and a kill somewhere.
type site struct {
	*node
	scenario
	d      *pci.Device
	p, old *pod
	was    state
	log    bytes.Buffer
	undo   []func()
}

func (s *site) conf() conf {
	c := s.p.conf(s.d, full())
	maps.Copy(c, s.more)
	if s.dpdk {
		delete(c, "mtu")
	}
	return c
}

func (s *site) call(verb string) error { return s.callBy(verb, s.p, s.conf()) }

func (s *site) callBy(verb string, p *pod, c conf) error {
	fmt.Fprintf(&s.log, "%s of %s\n", verb, p.id)
	if _, err := p.call(verb, c).try(s.Context(), &s.log); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}

// SIGKILL before and after every call of ADD and of DEL that changes something, then one of the recoveries: the VF is as
// before, and no lease and no open record is left. Which calls there are is not listed here but found by the tracer.
func TestKilledAnywhere(t *testing.T) {
	host := newNode(t)
	var all score
	var ran int
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			n := &node{T: t, host: host.host, vfs: host.vfs}
			d := n.vfs[0]
			if sc.dpdk {
				d = n.vfs[2]
				n.giveToVFIO(d)
			}
			got := everywhere(n, d, sc)
			t.Logf("%d points tried, %d VFs lost", got.tried, got.lost)
			ran++
			all.tried, all.lost = all.tried+got.tried, all.lost+got.lost
			if got.tried == 0 {
				t.Error("no point: the tracer misses them")
			}
		})
	}
	if ran == len(scenarios()) && all.tried < leastPoints {
		t.Errorf("%d points are fewer than there were once, %d: the tracer misses some", all.tried, leastPoints)
	}
	t.Logf("in all: %d points tried, %d VFs lost (-crash-turn %d)", all.tried, all.lost, *crashTurn)
}

// leastPoints is somewhat less than CI tries, so that an ADD or a DEL may come to do less.
const leastPoints = 100

type score struct{ tried, lost int }

// rotation goes on from scenario to scenario, and from day to day, so that each recovery comes after every kind of kill.
var rotation int

func everywhere(n *node, d *pci.Device, sc scenario) (all score) {
	n.Helper()
	was := n.state(d)
	defer n.unname(d)
	at, step := 1, 1
	if sc.sampled && !*crashFull {
		step = 3
		at += *crashTurn % step
	}
	for ; ; at += step {
		ended := true
		for _, after := range []bool{false, true} {
			if after && !*crashFull {
				break
			}
			todo := recoveries()
			if !*crashFull {
				if sc.rare {
					todo = todo[:len(todo)-reboots] // they take seconds
				}
				rotation++
				todo = todo[(*crashTurn+rotation)%len(todo):][:1]
			}
			for _, r := range todo {
				s := &site{node: n, scenario: sc, d: d, was: was}
				where, err := s.try(sc.kill(at, after), r)
				was = s.was
				if err != nil && where == "" {
					n.Fatalf("%s, not killed: %v\n%s", sc.name, err, s.log.Bytes())
				}
				if where == "" {
					break
				}
				ended = false
				all.tried++
				n.Logf("killed %s, then %s", where, r.name)
				if err != nil {
					all.lost++
					n.Errorf("LOST: %s, killed %s, then %s: %v\n%s", sc.name, where, r.name, err, s.log.Bytes())
					was = n.anew(d, sc.dpdk)
				}
			}
		}
		switch {
		case ended && all.tried == 0 && at > 1:
			at = 1 - step // it has fewer points than that
		case ended:
			return all // it ran to its end before its point number at
		}
	}
}

// try runs the verb into its death, and a recovery. It tells where it died, empty if it did not.
func (s *site) try(k tracetest.Kill, r recovery) (where string, err error) {
	s.p = s.newPod()
	defer func() {
		for _, f := range s.undo {
			f()
		}
		s.p.gone()
		if s.old != nil {
			s.old.gone()
		}
	}()
	if err := s.name(); err != nil {
		return "", fmt.Errorf("name the VF's interface: %w", err)
	}
	if s.before != nil {
		if err := s.before(s); err != nil {
			return "", fmt.Errorf("before the verb: %w", err)
		}
	}
	tr, err := s.traced(k)
	if err != nil {
		return "", err
	}
	if tr.Killed == "" {
		r = recoveries()[0]
	}
	if err := r.run(s); err != nil {
		return tr.Killed, err
	}
	if s.finish != nil {
		if err := s.finish(s); err != nil {
			return tr.Killed, err
		}
	}
	return tr.Killed, s.leftovers(s.d, s.was)
}

// name gives the VF's interface an alternative name, if it has lost that with a reboot: it has to come home with it.
func (s *site) name() error {
	if s.dpdk || len(s.was.Netdev.AltNames) > 0 {
		return nil
	}
	s.was.Netdev.AltNames = []string{"home-" + s.was.Netdev.Name}
	return ipCommand("link", "property", "add", "dev", s.was.Netdev.Name, "altname", s.was.Netdev.AltNames[0]).Run()
}

// unname takes it away again.
func (n *node) unname(d *pci.Device) {
	if dev, err := n.host.Find(d.Address.String()); err == nil {
		_ = n.host.DropAltNames(dev, nil)
	}
}

// dirty is what a pod may do to its interface.
func dirty(s *site) error {
	return errors.Join(
		ipCommand("-n", s.p.ns, "link", "set", "net1", "promisc", "on", "allmulticast", "on", "mtu", "1300").Run(),
		ipCommand("-n", s.p.ns, "link", "property", "add", "dev", "net1", "altname", "from-the-pod").Run(),
	)
}

func (s *site) traced(k tracetest.Kill) (*tracetest.Trace, error) {
	fmt.Fprintf(&s.log, "%s of %s, traced\n", s.verb, s.p.id)
	var out bytes.Buffer
	cmd, err := s.p.call(s.verb, s.conf()).command(s.Context(), &out)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = &s.log
	tr, err := tracetest.Run(cmd, *helper, k)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&s.log, "%s\nkilled %s; exit status %d\n", out.Bytes(), tr.Killed, tr.Status.ExitStatus())
	return tr, nil
}

// leftovers tells what is not as before.
func (n *node) leftovers(d *pci.Device, before state) error {
	var problems []string
	now, err := n.stateNow(d)
	if err != nil {
		problems = append(problems, err.Error())
	} else if diff := cmp.Diff(before, now); diff != "" {
		problems = append(problems, diff)
	}
	if l := leaseFiles(n.T); len(l) != 0 {
		problems = append(problems, fmt.Sprintf("leases left: %v", l))
	}
	if r := openRecords(n.T); len(r) != 0 {
		problems = append(problems, fmt.Sprintf("open records left: %v", r))
	}
	if o := owing(n.T); len(o) != 0 {
		problems = append(problems, fmt.Sprintf("something is owed: %v", o))
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("not as before: %s", strings.Join(problems, "\n"))
}
