//go:build amd64

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

// helper builds the tracer's launcher, once: it is started a thousand times here.
var helper = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "helper")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "./testdata/helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the helper: %w: %s", err, out)
	}
	return path, nil
})

// killNode has a default network, another one of two plugins, and an agent that says so.
func killNode(t *testing.T) *node {
	n, a := newNode(t), &agent{}
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one"}`
	info := devinfo.Info{Type: "pci", Version: devinfo.Version, PCI: &devinfo.PCI{Address: device.ID}}
	if err := (devinfo.Dir{Root: filepath.Join(n.dir, "devinfo")}).WriteDevice(device.Resource, device.ID, info); err != nil {
		t.Fatal(err)
	}
	n.plans(a, "rec-c")
	a.serve(n)
	return n
}

// device is what the other network is on.
var device = network.Device{Resource: "intel.com/sriov", ID: "0000:02:10.0"}

// plans makes the agent answer with the other network; last is its second plugin.
func (n *node) plans(a *agent, last string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plan = &network.Plan{Attachments: []network.Attachment{
		{Name: "shop/one", IfName: "net1", Config: json.RawMessage(n.chain("one", "1.0.0", "rec-b", last)), Device: &device},
	}}
}

// counts leaves out the result, which is the runtime's, and who starts or ends: that has changed nothing yet.
func counts(c tracetest.Call) bool {
	return c.Name != "fork" && c.Name != "exit" && c.Path != "the result"
}

func (n *node) traced(verb string, k tracetest.Kill) *tracetest.Trace {
	n.t.Helper()
	launcher, err := helper()
	if err != nil {
		n.t.Fatal(err)
	}
	k.Of = counts
	trace, err := tracetest.Run(n.command(verb), launcher, k)
	if err != nil {
		n.t.Fatal(err)
	}
	return trace
}

// recoveries are what may come after a kill; each is followed by the DEL that the runtime still owes.
var recoveries = []struct {
	name string
	do   func(*node)
}{
	{"DEL", func(*node) {}},
	{"ADD again", func(n *node) { n.ok("ADD") }},
	{"GC", func(n *node) {
		before := n.extra
		n.extra = `,"cni.dev/valid-attachments":[]`
		n.ok("GC")
		n.extra = before
		n.undone()
	}},
	{"the sandbox dies, and another pod's ADD cleans up", func(n *node) {
		delegatetest.RemoveNetns(n.t, n.netns)
		if err := os.RemoveAll(filepath.Join(n.dir, "run", "sweep")); err != nil { // ten minutes are over
			n.t.Fatal(err)
		}
		other := *n
		other.id, other.netns = n.id+"-other", delegatetest.Netns(n.t)
		other.ok("ADD")
		n.undone()
		other.ok("DEL")
		delegatetest.RemoveNetns(n.t, other.netns)
		n.netns = delegatetest.Netns(n.t) // for the next try
	}},
}

// undone checks that nothing of what plugins did for the container is left, whatever its DEL may still do.
func (n *node) undone() {
	n.t.Helper()
	left, err := filepath.Glob(filepath.Join(n.effects, n.id+"-eth0*"))
	more, err2 := filepath.Glob(filepath.Join(n.effects, n.id+"-net1*"))
	if err != nil || err2 != nil || left != nil || more != nil {
		n.t.Errorf("not undone: %v %v %v %v", left, more, err, err2)
	}
}

// The stub is killed before and after each call, its own or a plugin's, that changes a file or starts a program. What comes then
// takes turns, from day to day, so that each meets each.
func TestKilledAtEachCall(t *testing.T) {
	turn := time.Now().YearDay()
	for _, name := range []string{"ADD", "DEL", "ADD of plugins that act before they read"} {
		t.Run(name, func(t *testing.T) {
			n := killNode(t)
			verb, eager, _ := strings.Cut(name, " ")
			if eager != "" {
				t.Setenv(delegatetest.Eager, n.effects)
			}
			tried, of := 0, map[string]int{}
			for at, more := 1, true; more; at++ {
				for _, after := range []bool{false, true} {
					r := recoveries[(at+tried%2*2+turn)%len(recoveries)]
					n.id = fmt.Sprintf("%d-%d", os.Getpid(), tried)
					if err := os.Remove(n.journal); err != nil && !os.IsNotExist(err) {
						t.Fatal(err)
					}
					if verb == "DEL" {
						n.ok("ADD")
					}
					trace := n.traced(verb, tracetest.Kill{At: at, After: after})
					if trace.Killed == "" {
						more = false
					}
					r.do(n)
					n.ok("DEL")
					n.settled()
					n.keptApart()
					if t.Failed() {
						t.Fatalf("killed %s, then %s, then DEL; it had done %v", trace.Killed, r.name, trace.Calls)
					}
					tried++
					of[strings.Fields(trace.Killed + " x x")[1]]++
				}
			}
			t.Logf("killed at %d points: %v", tried, of)
			if of["rename"] < 4 || of["exec"] < 3 {
				t.Errorf("the tracer misses points: %v", of)
			}
		})
	}
}

// keptApart checks that no plugin was called for another network than its own.
func (n *node) keptApart() {
	n.t.Helper()
	for _, c := range delegatetest.Calls(n.t, n.journal) {
		want := "net1 one"
		if c.Plugin == "rec-a" {
			want = "eth0 pods"
		}
		var name string
		if err := json.Unmarshal(c.Stdin["name"], &name); err != nil {
			n.t.Error(err)
		}
		if got := c.IfName + " " + name; got != want && c.Verb != "GC" {
			n.t.Errorf("%s was called at %s for %s, want %s", c.Plugin, c.Verb, got, want)
		}
		if !strings.HasPrefix(c.ContainerID, n.id) && c.Verb != "GC" {
			n.t.Errorf("%s was called at %s for container %s", c.Plugin, c.Verb, c.ContainerID)
		}
	}
}

// What a power cut may take is decided by when the record is synced.
func TestWhatIsSynced(t *testing.T) {
	t.Run("the default network alone", func(t *testing.T) {
		n := killNode(t)
		n.annotations = `{}`
		for _, verb := range []string{"ADD", "DEL"} {
			for _, c := range n.traced(verb, tracetest.Kill{}).Calls {
				if c.Name == "fsync" && !c.Child {
					t.Errorf("%s syncs %s: DEL could do without the record", verb, c.Path)
				}
			}
		}
	})
	t.Run("another network", func(t *testing.T) {
		n := killNode(t)
		var order []string
		for _, c := range n.traced("ADD", tracetest.Kill{}).Calls {
			switch {
			case c.String() == "write a pipe":
				order = append(order, "configure") // a plugin can do nothing before
			case c.Name == "fsync" && !c.Child:
				order = append(order, "sync "+strings.ReplaceAll(filepath.Base(c.Path), n.id, "ID"))
			}
		}
		// The first record and its folder are synced while rec-a runs: their place in the order is not certain.
		if len(order) > 3 {
			slices.Sort(order[:3])
		}
		want := []string{"configure", "sync ID.json", "sync pods", "configure", "configure"}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		n.ok("DEL")
	})
	t.Run("another default network", func(t *testing.T) {
		n, a := newNode(t), &agent{}
		n.annotations = `{"v1.multus-cni.io/default-network":"one"}`
		a.plan = &network.Plan{Default: &network.Attachment{Name: "shop/one", Config: json.RawMessage(n.chain("one", "1.0.0", "rec-b"))}}
		a.serve(n)
		var order []string
		for _, c := range n.traced("ADD", tracetest.Kill{}).Calls {
			switch {
			case c.Name == "exec" && c.Child:
				order = append(order, "start "+filepath.Base(c.Path))
			case c.Name == "fsync" && !c.Child:
				order = append(order, "sync "+strings.ReplaceAll(filepath.Base(c.Path), n.id, "ID"))
			}
		}
		if diff := cmp.Diff([]string{"sync ID.json", "sync pods", "start rec-b"}, order); diff != "" {
			t.Errorf("DEL knows of it by the record alone: -want +got:\n%s", diff)
		}
		n.ok("DEL")
	})
}

// The bar of the stub's memory: what it takes at each sandbox of the node.
func TestStubPeak(t *testing.T) {
	const most = 10_000_000 / 1024 // KiB
	n := killNode(t)
	for _, verb := range []string{"ADD", "DEL"} {
		trace := n.traced(verb, tracetest.Kill{})
		t.Logf("%s: %d KiB at most", verb, trace.Peak)
		if trace.Status.ExitStatus() != 0 || trace.Peak == 0 || trace.Peak > most {
			t.Errorf("%s ended with %d, and had %d KiB in memory, more than %d", verb, trace.Status.ExitStatus(), trace.Peak, most)
		}
	}
}

// DEL of whatever sandbox asks nobody: it opens no socket. ADD of two networks shows that this would be seen.
func TestDelAsksNobody(t *testing.T) {
	n := killNode(t)
	sockets := func(verb string) (all []tracetest.Call) {
		t.Helper()
		trace := n.traced(verb, tracetest.Kill{})
		if trace.Status.ExitStatus() != 0 {
			t.Fatalf("%s ended with %d", verb, trace.Status.ExitStatus())
		}
		for _, c := range trace.Calls {
			if c.Name == "socket" && !c.Child {
				all = append(all, c)
			}
		}
		return all
	}
	if len(sockets("ADD")) == 0 {
		t.Error("ADD asked nobody: this test shows nothing")
	}
	for _, of := range []string{"two networks", "no record"} {
		if all := sockets("DEL"); all != nil {
			t.Errorf("DEL of a sandbox with %s opened %v", of, all)
		}
	}
}
