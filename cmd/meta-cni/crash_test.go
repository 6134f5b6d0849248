package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// killPoints is how many moments of a call are tried. They are spread over the time that a whole call takes.
const killPoints = 25

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

// killed starts the stub and kills it, and nothing else, after the given time. It reports whether the stub was faster.
func (n *node) killed(verb string, after time.Duration) (faster bool) {
	n.t.Helper()
	cmd := n.command(verb)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
		return true
	case <-time.After(after):
		_ = cmd.Process.Kill() // it may just have ended
		<-done
		return false
	}
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
		owed[c.Plugin+" "+c.IfName] = c.Verb == "ADD"
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
			took := map[string]time.Duration{}
			for _, verb := range []string{"ADD", "DEL"} {
				start := time.Now()
				n.ok(verb)
				took[verb] = time.Since(start)
			}
			interrupted := 0
			for i := range killPoints {
				n.id = fmt.Sprintf("%s-%d", strconv.Itoa(os.Getpid()), i)
				if err := os.Remove(n.journal); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				for _, call := range calls {
					if verb, kill := bytes.CutPrefix([]byte(call), []byte("kill ")); kill {
						if !n.killed(string(verb), took[string(verb)]*time.Duration(i)/killPoints) {
							interrupted++
						}
						continue
					}
					n.ok(call)
				}
				n.settled()
				if t.Failed() {
					t.Fatalf("at point %d of %d", i, killPoints)
				}
			}
			if interrupted < killPoints/2 {
				t.Errorf("only %d of %d calls were interrupted: this test shows nothing", interrupted, killPoints)
			}
		})
	}
}

// A plugin dies with the stub, and so does not act beside the DEL that follows.
func TestPluginsDieWithTheStub(t *testing.T) {
	n := newNode(t)
	n.def = n.chain("pods", "1.0.0", `rec-a "do":{"ADD":["child","hang"]}`)
	cmd := n.command("ADD")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := filepath.Join(n.effects, "c1-eth0-rec-a.child")
	eventually(t, "the plugin's child", func() bool { _, err := os.Stat(child); return err == nil })
	plugin := delegatetest.Calls(t, n.journal)[0].PID
	if err := cmd.Process.Kill(); err != nil {
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

// A stub that is told to stop undoes what it has begun.
func TestStopped(t *testing.T) {
	n := newNode(t)
	n.def = n.chain("pods", "1.0.0", `rec-a "do":{"ADD":["hang"]}`)
	cmd := n.command("ADD")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin to act", func() bool { return len(n.trace()) > 0 })
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("ADD succeeded")
	}
	n.settled()
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
