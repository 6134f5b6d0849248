package main

import (
	"fmt"
	"strings"
	"testing"
)

// maxInit is what the initializers of all packages may allocate. One regular expression compiled too early can double it.
const maxInit = 400

// The stub starts for each call on each sandbox of the node. What its packages prepare before main, all of them pay for.
func TestStubPreparesLittle(t *testing.T) {
	n := newNode(t)
	cmd := n.command("VERSION")
	cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	total, traced := 0, 0
	for line := range strings.Lines(stderr.String()) {
		var name string
		var at, clock float64
		var bytes, allocs int
		if _, err := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes, %d allocs", &name, &at, &clock, &bytes, &allocs); err != nil {
			continue
		}
		total, traced = total+allocs, traced+1
		if allocs > maxInit/4 {
			t.Errorf("package %s makes %d allocations before main", name, allocs)
		}
	}
	if traced == 0 {
		t.Fatalf("no trace of initializers in %q", stderr.String())
	}
	if total > maxInit {
		t.Errorf("%d allocations before main, %d at most:\n%s", total, maxInit, stderr.String())
	}
	t.Logf("%d allocations before main", total)
}
