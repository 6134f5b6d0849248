//go:build lab

package sriov_test

import (
	"bytes"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

var crashFull = flag.Bool("crash-full", false, "every point with every recovery, instead of one each in rotation")

// A recovery is what can come after a crash.
type recovery struct {
	name string
	run  func(t *testing.T, p *pod, d *pci.Device, c conf)
}

var recoveries = []recovery{
	{"DEL", func(t *testing.T, p *pod, _ *pci.Device, c conf) { p.call("DEL", c).must(t) }},
	{"DEL twice", func(t *testing.T, p *pod, _ *pci.Device, c conf) {
		p.call("DEL", c).must(t)
		p.call("DEL", c).must(t)
	}},
	{"netns death and DEL", func(t *testing.T, p *pod, _ *pci.Device, c conf) {
		p.kill()
		p.call("DEL", c).must(t)
	}},
	{"GC of everything", func(t *testing.T, p *pod, _ *pci.Device, c conf) {
		c["cni.dev/valid-attachments"] = []any{}
		p.call("GC", c).must(t)
	}},
	{"netns death, another pod's ADD and DEL", func(t *testing.T, p *pod, d *pci.Device, c conf) {
		p.kill()
		next := p.newPod()
		other := next.conf(d, conf{"vlan": 6, "ipam": c["ipam"]})
		next.call("ADD", other).must(t)
		next.call("DEL", other).must(t)
	}},
}

// SIGKILL before and after every call of ADD and of DEL that changes something, then one of the recoveries: the VF is as
// before, and no lease, record or process is left.
func TestKilledAnywhere(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	tried, lost := 0, 0
	for _, verb := range []string{"ADD", "DEL"} {
		for kill := 1; ; kill++ {
			var where string
			for _, after := range []bool{false, true} {
				todo := recoveries
				if !*crashFull {
					todo = recoveries[tried%len(recoveries):][:1]
				}
				for _, r := range todo {
					if where = crash(t, n, d, verb, kill, after, r); where == "" {
						break
					}
					tried++
					if problem := n.leftovers(d, before); problem != "" {
						lost++
						// What comes next would start from a broken VF.
						t.Fatalf("%s killed %s, then %s: %s\n%d points tried, %d VFs lost", verb, where, r.name, problem, tried, lost)
					}
				}
			}
			if where == "" {
				break // it ran to its end before its point number kill
			}
		}
	}
	t.Logf("%d points tried, %d VFs lost", tried, lost)
	if tried < 20 {
		t.Errorf("only %d points: the tracer misses some", tried)
	}
}

// crash runs one verb into its death, and a recovery. It tells where it died, empty if it did not.
func crash(t *testing.T, n *node, d *pci.Device, verb string, kill int, after bool, r recovery) string {
	t.Helper()
	p := n.newPod()
	c := p.conf(d, full())
	if verb == "DEL" {
		p.call("ADD", c).must(t)
	}
	var out, log bytes.Buffer
	cmd, err := p.call(verb, c).command(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &log
	tr, err := runTraced(cmd, kill, after)
	if err != nil {
		t.Fatal(err)
	}
	if tr.killed == "" {
		if tr.status.ExitStatus() != 0 {
			t.Errorf("%s traced, and not killed, failed: %s%s", verb, out.Bytes(), log.Bytes())
		}
		if verb == "ADD" {
			p.call("DEL", c).must(t)
		}
		p.kill()
		return ""
	}
	t.Logf("%s: killed %s, then %s", verb, tr.killed, r.name)
	r.run(t, p, d, c)
	return tr.killed
}

// leftovers tells what is not as before.
func (n *node) leftovers(d *pci.Device, before state) string {
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
	return strings.Join(problems, "\n")
}

// The bar of an ADD and a DEL: what they ask of the kernel. Counts cannot be noisy.
func TestCounts(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	count := func(p *pod, verb string) map[string]int {
		var out, log bytes.Buffer
		cmd, err := p.call(verb, p.conf(d, full())).command(t.Context(), &out)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = &log
		tr, err := runTraced(cmd, 0, false)
		if err != nil || tr.status.ExitStatus() != 0 {
			t.Fatalf("%s: %v: %s%s", verb, err, out.Bytes(), log.Bytes())
		}
		t.Logf("%s: %s", verb, strings.Join(tr.points, "\n\t"))
		counts := map[string]int{}
		for _, point := range tr.points {
			for _, word := range []string{"read the PF", "VF settings", "move", "exec", "fsync"} {
				if strings.Contains(point, word) {
					counts[word]++
				}
			}
		}
		return counts
	}
	// The first ADD after a boot has no baseline on record: it reads the PF once more.
	for round, reads := range []int{2, 1} {
		p := n.newPod()
		for _, verb := range []string{"ADD", "DEL"} {
			want := map[string]int{"read the PF": 1, "VF settings": 1, "move": 1, "exec": 1}
			if verb == "ADD" {
				want["read the PF"] = reads
			}
			if diff := cmp.Diff(want, count(p, verb)); diff != "" {
				t.Errorf("%s number %d: %s", verb, round+1, diff)
			}
		}
	}
}
