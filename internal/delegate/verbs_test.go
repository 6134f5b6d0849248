package delegate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// Plugins look for the routes of their results, and a network's default-route has replaced the default ones among these.
func TestCheckAfterDefaultRoute(t *testing.T) {
	n := newNode(t)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b")}))); err != nil {
		t.Fatal(err)
	}
	const result = `{"cniVersion":"1.0.0","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},{"dst":"10.9.0.0/16"},{"dst":"::/0"},{"dst":"odd"}]}`
	for moved, want := range map[bool]string{false: result, true: `{"cniVersion":"1.0.0","routes":[{"dst":"10.9.0.0/16"},{"dst":"odd"}]}`} {
		rec := n.record("c1")
		rec.Attachments[0].Result, rec.Attachments[1].DefaultRoute = []byte(result), nil
		if moved {
			rec.Attachments[1].DefaultRoute = []string{"192.0.2.1"}
		}
		if err := n.Records.Write("c1", rec); err != nil {
			t.Fatal(err)
		}
		before := len(n.trace())
		if err := n.Check(t.Context(), n.sandbox("c1")); err != nil {
			t.Fatal(err)
		}
		if got := string(delegatetest.Calls(t, n.journal)[before].Stdin["prevResult"]); got != want {
			t.Errorf("with a default-route elsewhere %v, CHECK got the prevResult %s, want %s", moved, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	n := newNode(t)
	if err := n.Check(t.Context(), n.sandbox("c1")); err == nil || CNIError(network.Pod{}, err).Code != types.ErrUnknownContainer {
		t.Errorf("an unknown container: want code 3, got %v", err)
	}
	off := strings.Replace(string(n.chain("off", "1.0.0", "rec-d")), "{", `{"disableCheck":true,`, 1)
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments(
		network.Attachment{Name: "old", Config: n.chain("old", "0.3.1", "rec-b")},
		network.Attachment{Name: "off", Config: json.RawMessage(off)},
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-c "do":{"CHECK":["fail"]},"code":42,"msg":"gone"`)},
	)))
	if err != nil {
		t.Fatal(err)
	}
	before := len(n.trace())
	err = n.Check(t.Context(), n.sandbox("c1"))
	if said := CNIError(network.Pod{}, err); said == nil || said.Code != 42 {
		t.Errorf("want rec-c's own code 42, got %v", err)
	}
	if diff := cmp.Diff([]string{"CHECK rec-a eth0", "CHECK rec-c net3"}, n.trace()[before:]); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if got := delegatetest.Calls(t, n.journal)[before].Stdin["prevResult"]; string(got) != string(rec.Attachments[0].Result) {
		t.Errorf("CHECK got the prevResult %s", got)
	}
	delegatetest.RemoveNetns(t, n.netns)
	if err := n.Check(t.Context(), n.sandbox("c1")); err == nil || CNIError(network.Pod{}, err).Code != types.ErrInvalidNetNS {
		t.Errorf("without its namespace: want code 8, got %v", err)
	}
}

func TestStatus(t *testing.T) {
	for name, tc := range map[string]struct {
		conf func(*node) json.RawMessage
		code uint
		want []string
	}{
		"ready": {func(n *node) json.RawMessage { return n.chain("pods", "1.1.0", "rec-a", "rec-b") }, 0, []string{"STATUS rec-a", "STATUS rec-b"}},
		"not ready": {func(n *node) json.RawMessage {
			return n.chain("pods", "1.1.0", `rec-a "do":{"STATUS":["fail"]},"code":50,"msg":"no"`, "rec-b")
		}, 50, []string{"STATUS rec-a"}},
		"cannot be asked": {func(n *node) json.RawMessage { return n.chain("pods", "1.0.0", "rec-a") }, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			err := n.Status(t.Context(), tc.conf(n))
			if said := CNIError(network.Pod{}, err); (said == nil) != (tc.code == 0) || said != nil && said.Code != tc.code {
				t.Errorf("want code %d, got %v", tc.code, err)
			}
			if diff := cmp.Diff(tc.want, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
		})
	}
}

// gcCalls maps network to the attachments that its GC was told to be valid.
func gcCalls(t *testing.T, n *node) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, c := range delegatetest.Calls(t, n.journal) {
		if c.Verb != "GC" {
			continue
		}
		var name string
		var valid []types.GCAttachment
		if err := json.Unmarshal(c.Stdin["name"], &name); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(c.Stdin["cni.dev/valid-attachments"], &valid); err != nil {
			t.Fatal(err)
		}
		out[name] = []string{}
		for _, v := range valid {
			out[name] = append(out[name], v.ContainerID+" "+v.IfName)
		}
		slices.Sort(out[name])
	}
	return out
}

func TestGC(t *testing.T) {
	def := func(n *node) network.Attachment {
		return network.Attachment{Name: "pods", Config: n.chain("pods", "1.1.0", "rec-a"), IsDefault: true}
	}
	attached := func(t *testing.T) *node {
		n := newNode(t)
		for _, id := range []string{"live", "dead", "busy"} {
			plan := []network.Attachment{def(n), {Name: "shop/one", IfName: "net1", Config: n.chain("one", "1.1.0", "rec-b")}}
			if _, err := n.Add(t.Context(), n.sandbox(id), planned(plan)); err != nil {
				t.Fatal(err)
			}
		}
		busy, err := n.Running.Lock(t.Context(), "busy")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = busy.Unlock() })
		return n
	}
	t.Run("maps what is valid onto every network", func(t *testing.T) {
		n := attached(t)
		if err := n.GC(t.Context(), def(n), []types.GCAttachment{{ContainerID: "live", IfName: "eth0"}}); err != nil {
			t.Fatal(err)
		}
		var dels []string
		for _, c := range delegatetest.Calls(t, n.journal) {
			if c.Verb == "DEL" {
				dels = append(dels, c.ContainerID+" "+c.Plugin)
			}
		}
		if diff := cmp.Diff([]string{"dead rec-b", "dead rec-a"}, dels); diff != "" {
			t.Errorf("DEL: -want +got:\n%s", diff)
		}
		want := map[string][]string{"pods": {"busy eth0", "live eth0"}, "one": {"busy net1", "live net1"}}
		if diff := cmp.Diff(want, gcCalls(t, n)); diff != "" {
			t.Errorf("GC: -want +got:\n%s", diff)
		}
	})
	// Another meta plugin's pods hold addresses of networks that only it knows.
	t.Run("spares the networks of containers that it does not know", func(t *testing.T) {
		n := attached(t)
		valid := []types.GCAttachment{{ContainerID: "live", IfName: "eth0"}, {ContainerID: "stranger", IfName: "eth0"}}
		if err := n.GC(t.Context(), def(n), valid); err != nil {
			t.Fatal(err)
		}
		want := map[string][]string{"pods": {"busy eth0", "live eth0", "stranger eth0"}}
		if diff := cmp.Diff(want, gcCalls(t, n)); diff != "" {
			t.Errorf("GC: -want +got:\n%s", diff)
		}
	})
}

func TestSweep(t *testing.T) {
	n := newNode(t)
	gone := delegatetest.Netns(t)
	for id, netns := range map[string]string{"live": n.netns, "dead": gone, "busy": gone} {
		sb := n.sandbox(id)
		sb.Netns = netns
		if _, err := n.Add(t.Context(), sb, planned(n.attachments())); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := n.Running.Lock(t.Context(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	delegatetest.RemoveNetns(t, gone)
	n.Sweep(t.Context())
	keys, err := n.Records.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busy", "live"}, keys); diff != "" {
		t.Errorf("records after the first sweep: -want +got:\n%s", diff)
	}
	if err := busy.Unlock(); err != nil {
		t.Fatal(err)
	}
	n.Sweep(t.Context()) // not again within ten minutes
	if keys, err = n.Records.Keys(); err != nil || len(keys) != 2 {
		t.Errorf("records after the second sweep: %v, %v", keys, err)
	}
	if last, err := n.SweepNow(t.Context(), time.Minute, "busy"); err != nil || last != "busy" {
		t.Errorf("a sweep from behind busy ended with %q: %v", last, err)
	}
	if keys, err = n.Records.Keys(); err != nil || !slices.Equal(keys, []string{"live"}) {
		t.Errorf("records in the end: %v, %v", keys, err)
	}
}

// A call that is killed before its first record leaves a lock, and perhaps half a record or a plugin's process. If no DEL comes,
// nobody else removes them.
func TestWhatAKilledCallLeavesGoes(t *testing.T) {
	for name, tidy := range map[string]func(*node) error{
		"sweep": func(n *node) error { _, err := n.SweepNow(n.t.Context(), time.Minute, ""); return err },
		"GC": func(n *node) error {
			return n.GC(n.t.Context(), n.attachments()[0], []types.GCAttachment{{ContainerID: "live", IfName: "eth0"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if _, err := n.Add(t.Context(), n.sandbox("live"), planned(n.attachments())); err != nil {
				t.Fatal(err)
			}
			working, err := n.Running.Lock(t.Context(), "working")
			if err != nil {
				t.Fatal(err)
			}
			defer working.Unlock()
			for _, path := range []string{
				filepath.Join(n.Running.Dir, "killed.lock"), filepath.Join(n.Running.Dir, "killed2.lock"), filepath.Join(n.Records.Dir, ".killed2.tmp"),
				filepath.Join(n.Records.Dir, ".killed3.tmp"), filepath.Join(n.Running.Dir, "killed4.json"), filepath.Join(n.Running.Dir, ".killed5.tmp"),
			} {
				if err := os.WriteFile(path, []byte(`{"vers`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := tidy(n); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"effects/live-eth0-rec-a", "pods/live.json", "running/working.lock"}, n.left()); diff != "" {
				t.Errorf("left: -want +got:\n%s", diff)
			}
		})
	}
}

// A broken record whose DEL never comes is put aside by the first sweep that meets it; one of another version of this program is
// left to that.
func TestSweepWithABrokenRecord(t *testing.T) {
	n := newNode(t)
	if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for key, content := range map[string]string{"broken": "{", "newer": `{"version":2,"record":{}}`} {
		if err := os.WriteFile(filepath.Join(n.Records.Dir, key+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for round, words := range []string{"broken.corrupt-1", "version"} {
		if _, err := n.SweepNow(t.Context(), time.Minute, ""); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("sweep %d: %v, want %q", round+1, err, words)
		}
		if diff := cmp.Diff([]string{"pods/broken.corrupt-1", "pods/newer.json"}, n.left()); diff != "" {
			t.Errorf("sweep %d: -want +got:\n%s", round+1, diff)
		}
	}
	if calls := n.trace(); len(calls) > 0 {
		t.Errorf("plugins were called: %v", calls)
	}
}

// ADDs look for dead sandboxes every ten minutes, by a clock that may be set.
func TestSweepNowAndThen(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.Running.Dir, "sweep", "sweep.json")
	for i, age := range []time.Duration{-1, sweepEvery / 2, sweepEvery + time.Minute, -time.Hour} { // the first: there was none
		sb := n.sandbox(fmt.Sprint("dead", i))
		sb.Netns = delegatetest.Netns(t)
		if _, err := n.Add(t.Context(), sb, planned(n.attachments())); err != nil {
			t.Fatal(err)
		}
		delegatetest.RemoveNetns(t, sb.Netns)
		if last := time.Now().Add(-age); i > 0 {
			if err := os.Chtimes(file, last, last); err != nil {
				t.Fatal(err)
			}
		}
		n.Sweep(t.Context())
		swept := age != sweepEvery/2
		if keys, err := n.Records.Keys(); err != nil || (len(keys) == 0) != swept {
			t.Errorf("the last sweep %v ago: records of %v, %v", age, keys, err)
		}
	}
}

// A DEL that takes longer than a sweep may begins all the same, and ends: else no sweep would ever get it done.
func TestSweepLetsASlowDelEnd(t *testing.T) {
	n := newNode(t)
	sb := n.sandbox("dead")
	sb.Netns = delegatetest.Netns(t)
	slow := network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"DEL":["slow"]}`, `rec-c "do":{"DEL":["slow"]}`)}
	if _, err := n.Add(t.Context(), sb, planned(n.attachments(slow))); err != nil {
		t.Fatal(err)
	}
	delegatetest.RemoveNetns(t, sb.Netns)
	for last := ""; last == ""; { // on a busy machine the time is over before it begins
		var err error
		if last, err = n.SweepNow(t.Context(), 10*time.Millisecond, ""); last != "" && err != nil {
			t.Fatal(err)
		}
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A broken record of a container that is gone must not fail each GC from now on; one of a container that is there is its DEL's.
func TestGCWithABrokenRecord(t *testing.T) {
	n := newNode(t)
	for _, id := range []string{"live", "dead"} {
		if _, err := n.Add(t.Context(), n.sandbox(id), planned(n.attachments())); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n.Records.Dir, id+".json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gc := func() error {
		return n.GC(t.Context(), n.attachments()[0], []types.GCAttachment{{ContainerID: "live", IfName: "eth0"}})
	}
	if err := gc(); err == nil || !strings.Contains(err.Error(), "dead.corrupt-1") {
		t.Errorf("the first GC: %v", err)
	}
	if err := gc(); err == nil || strings.Contains(err.Error(), "dead") || !strings.Contains(err.Error(), "live") {
		t.Errorf("the second GC: %v, want one about the live container's record alone", err)
	}
	if _, err := os.Stat(filepath.Join(n.Records.Dir, "live.json")); err != nil {
		t.Errorf("the live container's record: %v", err)
	}
}
