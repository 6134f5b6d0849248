package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

func TestDelTriesAllAndKeepsWhatFailed(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(
		// rec-b's DEL fails until the test mends it by putting another plugin in its place.
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"DEL":["fail"]},"code":7,"msg":"device Not  Found"`, "rec-c")},
		network.Attachment{Name: "shop/two", Config: n.chain("two", "1.0.0", `rec-d "do":{"DEL":["fail"]},"msg":"too"`)},
	)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
		t.Fatal(err)
	}
	del := []string{"DEL rec-d net2", "DEL rec-c net1", "DEL rec-b net1", "DEL rec-a eth0"}
	before := len(n.trace())
	for round, want := range [][]string{del, del[:3]} { // rec-a is gone after the first
		err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{})
		if err == nil {
			t.Fatalf("round %d: DEL succeeded", round)
		}
		said := DelError(network.Pod{}, err)
		for _, m := range []string{"rec-b", "shop/one", "rec-d", "shop/two", "device not-found"} {
			if !strings.Contains(said.Msg, m) {
				t.Errorf("the error does not mention %q: %s", m, said.Msg)
			}
		}
		if diff := cmp.Diff(want, n.trace()[before:]); diff != "" {
			t.Errorf("round %d: calls: -want +got:\n%s", round, diff)
		}
		before = len(n.trace())
	}
	rec := n.record("c1")
	for i := range rec.Attachments {
		rec.Attachments[i].Config = []byte(strings.ReplaceAll(string(rec.Attachments[i].Config), `"fail"`, `"mended"`))
	}
	if err := n.Records.Write("c1", rec); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestDelError(t *testing.T) {
	for _, s := range []string{"not found", "x: Not Found", "not\nfound", "NOT\tFOUND: not found"} {
		got := DelError(network.Pod{Namespace: "not found", Name: "p"}, errors.New(s))
		if strings.Contains(strings.ToLower(got.Error()), "not found") {
			t.Errorf("%q becomes %q, which a runtime takes for success", s, got.Msg)
		}
	}
	if DelError(network.Pod{}, nil) != nil {
		t.Error("nil becomes an error")
	}
}

func TestDelWithoutARecord(t *testing.T) {
	n := newNode(t)
	def := n.attachments()[0]
	if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Records.Dir, ".c1.tmp"), []byte(`{"version":1,"rec`), 0o600); err != nil {
		t.Fatal(err) // what a killed writer leaves
	}
	for range 2 {
		if err := n.Del(t.Context(), n.sandbox("c1"), def); err != nil {
			t.Fatal(err)
		}
	}
	sb := n.sandbox("c1")
	sb.Netns = ""
	for _, kept := range []string{`{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24"}]}`, `{"ips":7}`} {
		sb.Result = []byte(kept)
		if err := n.Del(t.Context(), sb, def); err != nil {
			t.Fatal(err)
		}
	}
	calls := delegatetest.Calls(t, n.journal)
	if len(calls) != 4 || calls[0].Netns != n.netns || calls[2].Netns != "" {
		t.Fatalf("calls: %+v", calls)
	}
	for i, want := range []bool{false, false, true, false} {
		if prev := string(calls[i].Stdin["prevResult"]); strings.Contains(prev, "10.1.2.3/24") != want || prev != "" && !want {
			t.Errorf("call %d has the result %q; want one: %v", i, prev, want)
		}
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A record that cannot be read: the default network is torn down, the record kept for a person, the error says so once.
func TestDelWithABrokenRecord(t *testing.T) {
	for name, content := range map[string]string{
		"truncated": `{"version":1,"record":{"containerID":"c1","attach`,
		"zeroes":    "\x00\x00\x00\x00",
		"foreign":   `["somebody else's"]`,
		"future":    `{"version":2,"record":{"containerID":"c1"}}`,
		"no record": `{"version":1,"record":null}`,
		// Whole, but nothing that this program wrote under this name.
		"another container's": `{"version":1,"record":{"containerID":"c2","attachments":[{"name":"shop/one","ifName":"net1","phase":"added","config":{"cniVersion":"1.0.0","name":"one","type":"rec-b"}}]}}`,
		"no networks":         `{"version":1,"record":{"containerID":"c1"}}`,
		"an unknown phase":    `{"version":1,"record":{"containerID":"c1","attachments":[{"name":"shop/one","ifName":"net1","phase":"done","config":{"cniVersion":"1.0.0","name":"one","type":"rec-b"}}]}}`,
		"no configuration":    `{"version":1,"record":{"containerID":"c1","attachments":[{"name":"shop/one","ifName":"net1","phase":"added"}]}}`,
		"a plugin by path":    `{"version":1,"record":{"containerID":"c1","attachments":[{"name":"shop/one","ifName":"net1","phase":"added","config":{"cniVersion":"1.0.0","name":"one","type":"../rec-b"}}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			def := n.attachments()[0]
			if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(n.Records.Dir, "c1.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			err := n.Del(t.Context(), n.sandbox("c1"), def)
			if err == nil || !strings.Contains(err.Error(), "c1.corrupt-1") {
				t.Errorf("want an error that says where the record is, got %v", err)
			}
			if diff := cmp.Diff([]string{"DEL rec-a eth0"}, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff([]string{"pods/c1.corrupt-1"}, n.left()); diff != "" {
				t.Errorf("left behind: -want +got:\n%s", diff)
			}
			if err := n.Del(t.Context(), n.sandbox("c1"), def); err != nil {
				t.Errorf("the next DEL fails, too: %v", err)
			}
			if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments())); err != nil {
				t.Errorf("ADD after that: %v", err)
			}
		})
	}
}

// Whatever is on file: DEL and the others end, and a record that cannot be carried out does not stay in the way.
func FuzzRecord(f *testing.F) {
	n := newNode(f)
	n.Path = "/nonexistent"   // no plugin runs
	n.Records.Durable = false // the disk is not what is tested
	for _, phase := range []Phase{Planned, Adding, Added, Deleting, Gone, "x"} {
		rec, _, err := newRecord(n.sandbox("c1"), Netns{Path: n.netns}, n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "0.3.1", "rec-b")}))
		if err != nil {
			f.Fatal(err)
		}
		rec.Phase, rec.Attachments[0].Phase, rec.Attachments[1].Phase = phase, phase, Gone
		rec.Attachments[1].Result = json.RawMessage(`{"cniVersion":"0.3.1","ips":[{"version":"4","address":"192.0.2.1/24"}]}`)
		data, err := json.Marshal(map[string]any{"version": 1, "record": rec})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
		lines := slices.Concat(data, []byte("\n"), data, []byte("\n"))
		f.Add(lines)
		f.Add(lines[:len(lines)-5])
	}
	if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(n.Records.Dir, "c1.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := n.load("c1")
		if err == nil {
			_, _ = rec.Result()
			_, _ = rec.NetworkStatus()
			_ = n.Check(t.Context(), n.sandbox("c1"))
		}
		_, _ = n.SweepNow(t.Context(), time.Minute, "")
		del := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{})
		again, reread := n.load("c1")
		switch {
		case err != nil && (del == nil || !errors.Is(reread, journal.ErrNotExist)):
			t.Errorf("a record that cannot be read (%v): DEL says %v, and left %v, %v", err, del, again, reread)
		case err == nil && del == nil && !errors.Is(reread, journal.ErrNotExist):
			t.Errorf("DEL succeeded and left %+v, %v", again, reread)
		case err == nil && del != nil && reread != nil && !errors.Is(reread, journal.ErrNotExist):
			t.Errorf("DEL failed (%v) and left a record that cannot be read: %v", del, reread)
		}
		if err := n.Records.Remove("c1"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAddWithABrokenRecord(t *testing.T) {
	n := newNode(t)
	if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Records.Dir, "c1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments())); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(n.Records.Dir, "c1.corrupt-1")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"DEL rec-a eth0", "ADD rec-a eth0"}, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
}

// The namespace's path may be another sandbox's by the time of DEL: no plugin may get it then.
func TestDelNamesOnlyTheOldNetns(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*node, *Record)
		want   func(*node) string
	}{
		"alive":            {func(*node, *Record) {}, func(n *node) string { return n.netns }},
		"gone":             {func(n *node, _ *Record) { delegatetest.RemoveNetns(n.t, n.netns) }, func(*node) string { return "" }},
		"another by now":   {func(_ *node, r *Record) { r.Netns.Inode++ }, func(*node) string { return "" }},
		"of an older boot": {func(_ *node, r *Record) { r.Boot = "before" }, func(*node) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments()))
			if err != nil {
				t.Fatal(err)
			}
			tc.change(n, rec)
			if err := n.Records.Write("c1", rec); err != nil {
				t.Fatal(err)
			}
			sb := n.sandbox("c1")
			sb.Netns = "" // the record knows better
			if err := n.Del(t.Context(), sb, network.Attachment{}); err != nil {
				t.Fatal(err)
			}
			if got := delegatetest.Calls(t, n.journal)[1].Netns; got != tc.want(n) {
				t.Errorf("DEL got CNI_NETNS %q, want %q", got, tc.want(n))
			}
		})
	}
}

// After a power cut a record may know less than there was: its last changes were not synced.
func TestDelAfterAPowerCut(t *testing.T) {
	all := []string{"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0"}
	for name, tc := range map[string]struct {
		boot, behind string
		want         []string
	}{
		"a later boot": {"before", "", all},
		// The next one's plugin may have been started.
		"the same":            {bootID(), "", []string{"DEL rec-b net1", "DEL rec-a eth0"}},
		"a part of a newer":   {bootID(), `{"version":1,"rec`, all},
		"zeros behind it":     {"before", strings.Repeat("\x00", 5000), all},
		"zeros and a newline": {"before", "\x00\x00\x00\x00\n", all},
		"another's bytes":     {bootID(), "\nELF, or what else was there\n{}", all},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			rec, _, err := newRecord(n.sandbox("c1"), Netns{Path: n.netns}, n.attachments(
				network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b")},
				network.Attachment{Name: "shop/two", Config: n.chain("two", "1.0.0", "rec-c")}))
			if err != nil {
				t.Fatal(err)
			}
			rec.Boot, rec.Phase, rec.Attachments[0].Phase = tc.boot, Adding, Adding
			if err := n.Records.Write("c1", rec); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(n.Records.Dir, "c1.json")
			written, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, append(written, tc.behind...), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The record of a pod with the default network alone is never synced: a power cut leaves an empty file. No person can make
// anything of it, and DEL can do without. Whoever comes first removes it.
func TestARecordThatAPowerCutEmptied(t *testing.T) {
	for by, tc := range map[string]struct {
		do    func(*node) error
		calls []string
	}{
		"DEL": {
			func(n *node) error { return n.Del(n.t.Context(), n.sandbox("c1"), n.attachments()[0]) },
			[]string{"DEL rec-a eth0"},
		},
		"ADD, DEL": {
			func(n *node) error {
				_, err := n.Add(n.t.Context(), n.sandbox("c1"), planned(n.attachments()))
				return errors.Join(err, n.Del(n.t.Context(), n.sandbox("c1"), network.Attachment{}))
			},
			[]string{"ADD rec-a eth0", "DEL rec-a eth0"},
		},
		"GC":          {func(n *node) error { return n.GC(n.t.Context(), n.attachments()[0], nil) }, nil},
		"a sweep":     {func(n *node) error { _, err := n.SweepNow(n.t.Context(), time.Minute, ""); return err }, nil},
		"an operator": {func(n *node) error { _, err := n.CollectDead(n.t.Context(), "c1"); return err }, nil},
	} {
		t.Run(by, func(t *testing.T) {
			n := newNode(t)
			if err := os.MkdirAll(n.Records.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(n.Records.Dir, "c1.json"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if all, err := n.List(); len(all) != 0 || err != nil {
				t.Errorf("an operator sees %v, %v", all, err)
			}
			if err := tc.do(n); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.calls, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestOneCallAtATime(t *testing.T) {
	n := newNode(t)
	n.LockWait = 50 * time.Millisecond
	l, err := n.Running.Lock(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	_, add := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments()))
	del := n.Del(t.Context(), n.sandbox("c1"), n.attachments()[0])
	for verb, err := range map[string]error{"ADD": add, "DEL": del} {
		if !errors.Is(err, journal.ErrLocked) || CNIError(network.Pod{}, err).Code != 11 {
			t.Errorf("%s: want ErrLocked and code 11, got %v", verb, err)
		}
	}
	if calls := n.trace(); calls != nil {
		t.Errorf("plugins ran: %v", calls)
	}
	if err := l.UnlockAndRemove(); err != nil {
		t.Fatal(err)
	}
	// Others are not in the way.
	if _, err := n.Add(t.Context(), n.sandbox("c2"), planned(n.attachments())); err != nil {
		t.Error(err)
	}
}

func TestNothingPilesUp(t *testing.T) {
	n := newNode(t)
	for i := range 20 {
		id := fmt.Sprintf("c%d", i)
		if _, err := n.Add(t.Context(), n.sandbox(id), planned(n.attachments())); err != nil {
			t.Fatal(err)
		}
		if err := n.Del(t.Context(), n.sandbox(id), n.attachments()[0]); err != nil {
			t.Fatal(err)
		}
		if err := n.Del(t.Context(), n.sandbox(id), n.attachments()[0]); err != nil {
			t.Fatal(err)
		}
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// Networks whose DEL hangs do not keep the others from theirs, however often the runtime ends a try.
func TestDelsThatHangDoNotStarveTheOthers(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"DEL":["hang"]}`)},
		network.Attachment{Name: "shop/two", Config: n.chain("two", "1.0.0", `rec-c "do":{"DEL":["hang"]}`)},
	)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
		t.Fatal(err)
	}
	before := len(n.trace())
	for _, want := range []string{"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0"} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Del(ctx, n.sandbox("c1"), network.Attachment{}) }()
		for deadline := time.Now().Add(20 * time.Second); !slices.Contains(n.trace()[before:], want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no %s: %q", want, n.trace()[before:])
			}
		}
		cancel() // the runtime's patience is over
		if err := <-ended; err == nil {
			t.Fatal("DEL succeeded")
		}
	}
	if phases := []Phase{n.record("c1").Attachments[0].Phase, n.record("c1").Attachments[1].Phase}; phases[0] != Gone || phases[1] != Deleting {
		t.Errorf("the default network and the first one are %v", phases)
	}
}
