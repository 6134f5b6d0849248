//go:build lab

package sriov_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

var rebootPhase = flag.String("reboot", "", "before or after: only this half of TestReboot, with a true reboot of the lab (--persist) in between")

// Pods whose ADD was killed, each elsewhere, and then the machine reboots; the state folder and the leases survive it. What
// the records speak of is no more: a DEL, or another pod's ADD, drops them, releases the leases, and leaves the VFs alone.
// By itself the test does to the VFs and to the boot id what a reboot does.
func TestReboot(t *testing.T) {
	dir := "/persist"
	if *rebootPhase == "" {
		dir = t.TempDir()
	}
	survives(t, filepath.Join(dir, "vf"), records)
	survives(t, filepath.Join(dir, "leases"), leases)
	var n *node
	if *rebootPhase != "after" {
		n = killAdds(t)
	}
	if *rebootPhase == "" {
		for i := range n.vfs {
			rebootPod(n, i).gone()
		}
		if err := newBootID(); err != nil {
			t.Fatal(err)
		}
		n.anew(n.vfs[0], false)
		n.anew(n.vfs[len(n.vfs)-1], false) // of the other PF
	}
	if *rebootPhase != "before" {
		afterReboot(t)
	}
}

// survives makes a folder the one below dir, which a reboot does not empty.
func survives(t *testing.T, dir, at string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(at, 0o700), unix.Mount(dir, at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// killAdds kills the ADD of a pod on each VF, evenly spread over all of its points.
func killAdds(t *testing.T) *node {
	n := newNode(t)
	points := 0
	for i, d := range n.vfs {
		s := &site{node: n, scenario: scenario{verb: "ADD"}, d: d, was: n.state(d), p: rebootPod(n, i)}
		n.ip("netns", "add", s.p.ns)
		if i == 0 { // runs to its end, and tells how many points there are
			tr, err := s.traced(tracetest.Kill{})
			if err != nil || openRecords(t) == nil {
				t.Fatalf("ADD: %v\n%s", err, s.log.Bytes())
			}
			points = changes(tr)
			t.Logf("%d points: %v", points, tr.Calls)
			continue
		}
		for at := i * points / len(n.vfs); ; at /= 2 {
			tr, err := s.traced(tracetest.Kill{At: at})
			if err != nil || at == 0 {
				t.Fatalf("ADD on VF %s, to be killed at call %d: %v\n%s", d.Address, at, err, s.log.Bytes())
			}
			if tr.Killed != "" {
				t.Logf("VF %s: killed %s, call %d", d.Address, tr.Killed, at)
				break
			}
			// It had less to do than the first, such as interfaces to announce that are up already.
			t.Logf("VF %s: only %d points: %v", d.Address, changes(tr), tr.Calls)
			if err := s.callBy("DEL", s.p, s.conf()); err != nil {
				t.Fatalf("DEL on VF %s: %v\n%s", d.Address, err, s.log.Bytes())
			}
		}
	}
	unix.Sync()
	return n
}

func rebootPod(n *node, i int) *pod {
	return &pod{node: n, id: fmt.Sprintf("reboot-%d", i), ns: fmt.Sprintf("reboot%d", i)}
}

func afterReboot(t *testing.T) {
	n := newNode(t)
	if len(openRecords(t)) == 0 {
		t.Error("no record has survived")
	}
	before := map[int]state{}
	for i, d := range n.vfs {
		before[i] = n.state(d)
	}
	for i, d := range n.vfs {
		old, next := rebootPod(n, i), n.newPod()
		if i%2 == 0 {
			old.call("DEL", old.conf(d, full())).must(t)
		}
		next.call("ADD", next.conf(d, full())).must(t)
		next.call("DEL", next.conf(d, full())).must(t)
	}
	for i, d := range n.vfs {
		if err := n.leftovers(d, before[i]); err != nil {
			t.Errorf("VF %s: %v", d.Address, err)
		}
	}
}

// changes is how many of the calls are some.
func changes(t *tracetest.Trace) (n int) {
	for _, c := range t.Calls {
		if !c.Reads {
			n++
		}
	}
	return n
}
