package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// steps is what a whole call does that can be seen from outside: four plugins are called, each does one thing itself and
// has one done. The stub is killed after each of them.
const steps = 4 * 3

// slowNode has three networks whose plugins take their time, and let another process act for them, as bridge does with
// host-local.
func slowNode(t *testing.T) *node {
	n := newNode(t)
	const slow = ` "do":{"ADD":["slow","ipam"],"DEL":["slow","ipam"]}`
	n.def = n.chain("pods", "1.0.0", "rec-a"+slow)
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
	a := &agent{plan: &network.Plan{Attachments: []network.Attachment{
		{Name: "shop/one", IfName: "net1", Config: json.RawMessage(n.chain("one", "1.0.0", "rec-b"+slow, "rec-c"+slow))},
		{Name: "shop/two", IfName: "net2", Config: json.RawMessage(n.chain("two", "1.0.0", "rec-b"+slow))},
	}}}
	a.serve(n)
	return n
}

// killed starts the stub and kills it, and nothing else, when the plugins have come so many steps further. It reports
// whether the stub was faster.
func (n *node) killed(verb string, after int) (faster bool) {
	n.t.Helper()
	calls, effects := n.progress()
	cmd := n.command(verb)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is the next call's to find out
		close(done)
	}()
	for {
		c, e := n.progress()
		if c-calls+max(e-effects, effects-e) >= after {
			_ = cmd.Process.Kill() // it may just have ended
			<-done
			return false
		}
		select {
		case <-done:
			return true
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// progress counts the calls of plugins and what they have done to the world.
func (n *node) progress() (calls, effects int) {
	n.t.Helper()
	data, err := os.ReadFile(n.journal)
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	entries, err := os.ReadDir(n.effects)
	if err != nil {
		n.t.Fatal(err)
	}
	return bytes.Count(data, []byte("}\n")), len(entries)
}

// workers lists live processes that were started for the container.
func workers(t testing.TB, id string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ")) // that of a zombie is empty
		if err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool {
			return string(v) == "CNI_CONTAINERID="+id
		}) {
			out = append(out, pid)
		}
	}
	return out
}

// settled checks what must hold when the last DEL has ended.
func (n *node) settled() {
	n.t.Helper()
	if left := n.left(); left != nil {
		n.t.Errorf("left behind: %v", left)
	}
	if pids := workers(n.t, n.id); pids != nil {
		n.t.Errorf("processes %v still work for the container", pids)
	}
	// Every plugin that was called for an interface got its DEL after that.
	owed := map[string]bool{}
	for _, c := range delegatetest.Calls(n.t, n.journal) {
		owed[c.Plugin+" "+c.ContainerID+" "+c.IfName] = c.Verb == "ADD"
	}
	for who, due := range owed {
		if due {
			n.t.Errorf("%s got no DEL after its last ADD", who)
		}
	}
}

func TestKilledAtAnyPoint(t *testing.T) {
	for name, calls := range map[string][]string{
		"in ADD, then DEL":         {"kill ADD", "DEL"},
		"in ADD, ADD again, DEL":   {"kill ADD", "ADD", "DEL"},
		"in DEL, then DEL":         {"ADD", "kill DEL", "DEL"},
		"in ADD and DEL, then DEL": {"kill ADD", "kill DEL", "DEL"},
	} {
		t.Run(name, func(t *testing.T) {
			n := slowNode(t)
			interrupted := 0
			for i := range steps + 1 {
				n.id = fmt.Sprintf("%d-%d", os.Getpid(), i)
				if err := os.Remove(n.journal); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				for _, call := range calls {
					verb, kill := strings.CutPrefix(call, "kill ")
					switch {
					case !kill:
						n.ok(verb)
					case !n.killed(verb, i):
						interrupted++
					}
				}
				n.settled()
				if t.Failed() {
					t.Fatalf("when killed after step %d of %d", i, steps)
				}
			}
			if interrupted < steps/2 {
				t.Errorf("only %d calls were interrupted: this test shows nothing", interrupted)
			}
		})
	}
}

// A plugin dies with the stub, and so does not act beside the DEL that follows.
func TestPluginsDieWithTheStub(t *testing.T) {
	for _, by := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGINT} {
		t.Run(by.String(), func(t *testing.T) { diesWithTheStub(t, by) })
	}
}

func diesWithTheStub(t *testing.T, by unix.Signal) {
	t.Helper()
	n := newNode(t)
	n.def = n.chain("pods", "1.0.0", `rec-a "do":{"ADD":["child","hang"]}`)
	cmd := n.command("ADD")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := filepath.Join(n.effects, n.id+"-eth0-rec-a.child")
	eventually(t, "the plugin's child", func() bool { _, err := os.Stat(child); return err == nil })
	plugin := delegatetest.Calls(t, n.journal)[0].PID
	if err := cmd.Process.Signal(by); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	eventually(t, "the plugin to die", func() bool { return unix.Kill(plugin, 0) == unix.ESRCH || zombie(plugin) })
	n.ok("DEL")
	if err := os.Remove(child); err != nil {
		t.Fatal(err)
	}
	n.settled()
}

func zombie(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err != nil || len(env) == 0
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
