//go:build amd64

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

// A cleanup is a call that tears down what another one left. Of what it does, the part from the start of plugin number first
// is killed, before number until starts; 0: to its end.
type cleanup struct {
	first, until int
	do           func(n *node, a *agent, k tracetest.Kill) *tracetest.Trace
}

var cleanups = map[string]cleanup{
	"undo of an ADD that failed": {3, 0, func(n *node, a *agent, k tracetest.Kill) *tracetest.Trace {
		n.plans(a, `rec-c "do":{"ADD":["fail"]}`)
		defer n.plans(a, "rec-c")
		return n.traced("ADD", k)
	}},
	"ADD over an old record": {1, 4, func(n *node, _ *agent, k tracetest.Kill) *tracetest.Trace {
		n.ok("ADD")
		return n.traced("ADD", k)
	}},
	"GC": {1, 0, func(n *node, _ *agent, k tracetest.Kill) *tracetest.Trace {
		n.ok("ADD")
		before := n.extra
		defer func() { n.extra = before }()
		n.extra = `,"cni.dev/valid-attachments":[]`
		return n.traced("GC", k)
	}},
	"sweep by another pod's ADD": {2, 0, func(n *node, _ *agent, k tracetest.Kill) *tracetest.Trace {
		n.ok("ADD")
		delegatetest.RemoveNetns(n.t, n.netns)
		if err := os.RemoveAll(filepath.Join(n.dir, "run", "sweep")); err != nil { // ten minutes are over
			n.t.Fatal(err)
		}
		other := *n
		other.id, other.annotations, other.netns = n.id+"-other", `{}`, delegatetest.Netns(n.t)
		trace := other.traced("ADD", k)
		other.ok("DEL")
		n.netns = other.netns // for what comes after
		return trace
	}},
}

// The stub is killed before each call of a cleanup that changes a file or starts a program, each with a recovery in rotation.
// One at a time: a tracer's thread may be the one that started another test's program, and would reap it.
func TestKilledInCleanup(t *testing.T) {
	for name, c := range cleanups {
		t.Run(name, func(t *testing.T) {
			n, a := newNode(t), &agent{}
			n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one"}`
			n.plans(a, "rec-c")
			a.serve(n)
			dir := filepath.Base(n.netns)
			n.id = dir
			whole := c.do(n, a, tracetest.Kill{})
			n.ok("DEL")
			from, to := start(whole, c.first), start(whole, c.until)
			tried := 0
			for at := from; at < to; at, tried = at+1, tried+1 {
				r := recoveries[tried%len(recoveries)]
				n.id = fmt.Sprintf("%s-%d", dir, tried)
				if err := os.Remove(n.journal); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				trace := c.do(n, a, tracetest.Kill{At: at})
				r.do(n)
				n.ok("DEL")
				n.settled()
				n.keptApart()
				if t.Failed() {
					t.Fatalf("killed %s, then %s, then DEL; it had done %v", trace.Killed, r.name, trace.Calls)
				}
				if trace.Killed == "" {
					break // what is synced beside the first plugin is at times not done before the record has gone
				}
			}
			t.Logf("killed at %d points", tried)
			if tried < 12 {
				t.Error("that is no teardown of three plugins")
			}
		})
	}
}

// start is the number of the call by which the plugin with this number is started; for 0 one more than there are.
func start(trace *tracetest.Trace, plugin int) (at int) {
	at = 1
	for _, c := range trace.Calls {
		if !counts(c) || c.Reads {
			continue
		}
		if c.Name == "exec" && c.Child {
			if plugin--; plugin == 0 {
				return at
			}
		}
		at++
	}
	return at
}
