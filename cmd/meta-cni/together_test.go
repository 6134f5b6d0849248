package main

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Calls on one container, each a process of its own, never overlap, whatever they are.
func TestCallsOnOneContainerNeverOverlap(t *testing.T) {
	n := newNode(t)
	const alone = `rec-a "do":{"ADD":["alone"],"DEL":["alone"],"CHECK":["alone"]}`
	n.def = n.chain("pods", "1.1.0", alone)
	begun := 0
	for range 5 {
		var wg sync.WaitGroup
		for _, verb := range []string{"ADD", "DEL", "CHECK", "ADD", "DEL"} {
			cmd := n.command(verb)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			begun++
			wg.Go(func() { _ = cmd.Wait() }) // a CHECK may find nothing
		}
		wg.Wait()
	}
	n.ok("DEL")
	for _, what := range []string{"overlap", "busy"} {
		if found, err := filepath.Glob(filepath.Join(n.effects, "*."+what)); err != nil || found != nil {
			t.Errorf("of %d calls some ran beside each other: %v, %v", begun, found, err)
		}
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A status that the agent does not take is late, and no more: the pod starts.
func TestAReportThatIsRefused(t *testing.T) {
	n, a := newNode(t), &agent{deaf: true}
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
	a.plan = n.twoNetworks()
	a.serve(n)
	n.ok("ADD")
	if !strings.Contains(n.verbose, "network-status will be late") {
		t.Errorf("nothing is said: %q", n.verbose)
	}
	n.ok("DEL")
}
