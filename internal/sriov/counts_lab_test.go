//go:build lab

package sriov_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

// maxPeak is the memory that one call may take, in KiB: a node starts many at once. hack/size holds the binary.
const maxPeak = 12_000_000 / 1024

// maxCalls is how many calls a verb may make itself that change something or cost much, as the tracer counts them: what the
// time of an ADD depends on, without a clock. Forks are counted apart: the kernel starts one anew that a signal interrupts.
var maxCalls = map[string]int{"ADD": 32, "DEL": 23}

// The bar of an ADD and a DEL: what they ask of the kernel. Counts cannot be noisy. Two writes of the record are intent and
// outcome, and no fsync: see DefaultRecords.
func TestCounts(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	noRecords(t)
	counted := []string{"read the PF", "VF settings", "(move)", "exec", "rename", "fsync"}
	count := func(p *pod, verb string) map[string]int {
		s := &site{node: n, scenario: scenario{verb: verb}, d: d, p: p}
		tr, err := s.traced(tracetest.Kill{})
		if err != nil || tr.Status.ExitStatus() != 0 {
			t.Fatalf("%s: %v: %s", verb, err, s.log.Bytes())
		}
		own := 0
		for _, c := range tr.Calls {
			if name := c.String(); name != "fork" && name != "write a pipe" && !strings.HasSuffix(name, " by a child") {
				own++
			}
		}
		t.Logf("%s: %d KiB at most, %d calls of its own: %v", verb, tr.Peak, own, tr.Calls)
		if own > maxCalls[verb] {
			t.Errorf("%s made %d calls that change or cost something, more than %d", verb, own, maxCalls[verb])
		}
		if line := map[string]string{"ADD": "VF is in the pod", "DEL": "done with DEL"}[verb]; strings.Count(s.log.String(), line) != 1 {
			t.Errorf("the log of a good %s does not say once %q: %s", verb, line, s.log.Bytes())
		}
		if tr.Peak == 0 || tr.Peak > maxPeak {
			t.Errorf("%s had %d KiB in memory, more than %d", verb, tr.Peak, maxPeak)
		}
		counts := map[string]int{}
		for _, c := range tr.Calls {
			for _, word := range counted {
				if strings.Contains(c.String(), word) {
					counts[word]++
				}
			}
		}
		return counts
	}
	// The first ADD of a VF has no baseline on record: it reads the PF once more.
	for round, reads := range []int{2, 1} {
		p := n.newPod()
		for _, verb := range []string{"ADD", "DEL"} {
			want := map[string]int{"read the PF": 1, "VF settings": 1, "(move)": 1, "exec": 1, "rename": 2}
			if verb == "ADD" {
				want["read the PF"] = reads
			}
			if diff := cmp.Diff(want, count(p, verb)); diff != "" {
				t.Errorf("%s number %d: %s", verb, round+1, diff)
			}
		}
	}
}
