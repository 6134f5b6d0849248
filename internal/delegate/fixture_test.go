package delegate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// testDir is for what all tests share.
var testDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "viaduct-delegate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testDir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// A node is a runner with stand-in plugins, and where they leave their traces.
type node struct {
	*Runner
	t       testing.TB
	journal string
	effects string
	netns   string
}

func newNode(t testing.TB) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{
		t: t, journal: filepath.Join(dir, "calls"), effects: filepath.Join(dir, "effects"), netns: delegatetest.Netns(t),
		Runner: &Runner{
			Records: Records(filepath.Join(dir, "pods")),
			Running: journal.Store{Dir: filepath.Join(dir, "running"), Version: 1},
			Path:    "/nonexistent:" + filepath.Join(dir, "bin"),
			Devices: devinfo.Dir{Root: filepath.Join(dir, "devinfo")},
			Timeout: 20 * time.Second, LockWait: 20 * time.Second,
			Log: slog.New(slog.DiscardHandler),
		},
	}
	for _, d := range []string{"bin", "effects"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	delegatetest.Install(t, filepath.Join(dir, "bin"), "rec-a", "rec-b", "rec-c", "rec-d")
	return n
}

func (n *node) sandbox(id string) Sandbox {
	return Sandbox{
		ContainerID: id, Netns: n.netns, IfName: "eth0", Args: "IgnoreUnknown=1;K8S_POD_NAME=web",
		Pod: network.Pod{Namespace: "shop", Name: "web", UID: "1-2-3"},
	}
}

// chain makes a configuration list of plugins; each is a name and then JSON members that go into its configuration.
func (n *node) chain(name, version string, plugins ...string) json.RawMessage {
	var confs []string
	for _, p := range plugins {
		plugin, more, _ := strings.Cut(p, " ")
		if more != "" {
			more = "," + more
		}
		confs = append(confs, fmt.Sprintf(`{"type":%q,"journal":%q,"effects":%q%s}`, plugin, n.journal, n.effects, more))
	}
	return json.RawMessage(fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(confs, ",")))
}

// attachments is a default network of plugin rec-a, then what is given; interfaces net1, net2… are filled in.
func (n *node) attachments(more ...network.Attachment) []network.Attachment {
	out := []network.Attachment{{Name: "pods", Config: n.chain("pods", "1.0.0", "rec-a"), IsDefault: true}}
	for i, a := range more {
		if a.IfName == "" {
			a.IfName = fmt.Sprintf("net%d", i+1)
		}
		out = append(out, a)
	}
	return out
}

func planned(a []network.Attachment) Planner {
	return func(context.Context) ([]network.Attachment, error) { return a, nil }
}

// trace is the stand-ins' calls, as "VERB plugin ifname".
func (n *node) trace() []string {
	n.t.Helper()
	var out []string
	for _, c := range delegatetest.Calls(n.t, n.journal) {
		out = append(out, strings.TrimSpace(c.Verb+" "+c.Plugin+" "+c.IfName))
	}
	return out
}

// left lists what the plugins have done and not undone, and the state folders' files.
func (n *node) left() []string {
	n.t.Helper()
	var out []string
	for _, dir := range []string{n.effects, n.Records.Dir, n.Running.Dir, filepath.Join(n.Devices.Root, "cni")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			n.t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, filepath.Base(dir)+"/"+e.Name())
		}
	}
	return out
}

func (n *node) record(id string) *Record {
	n.t.Helper()
	var rec Record
	if err := n.Records.Read(id, &rec); err != nil {
		n.t.Fatal(err)
	}
	return &rec
}

func sorted(s []string) []string { slices.Sort(s); return s }
