package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// maxInit is what the initializers of all packages may allocate. One regular expression compiled too early can double it.
const maxInit = 200

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
	total, traced := 0, []string{}
	for line := range strings.Lines(stderr.String()) {
		var name string
		var at, clock float64
		var bytes, allocs int
		if _, err := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes, %d allocs", &name, &at, &clock, &bytes, &allocs); err != nil {
			continue
		}
		total, traced = total+allocs, append(traced, name)
		if allocs > maxInit/4 {
			t.Errorf("package %s makes %d allocations before main", name, allocs)
		}
	}
	// The stack is to be large before it would grow.
	const stack, grows = "github.com/viaduct-sriov/viaduct/internal/stack", "internal/godebug"
	if first, then := slices.Index(traced, stack), slices.Index(traced, grows); first < 0 || then < first {
		t.Errorf("%s is not initialized before %s: %v", stack, grows, traced)
	}
	if total > maxInit {
		t.Errorf("%d allocations before main, %d at most:\n%s", total, maxInit, stderr.String())
	}
	t.Logf("%d allocations before main", total)
}
