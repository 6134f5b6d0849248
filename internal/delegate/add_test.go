package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

func TestAddThenDel(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.1.0", "rec-b", "rec-c")},
		network.Attachment{Name: "shop/two", Config: n.chain("two", "0.3.1", "rec-d")},
	)
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(n.record("c1"), rec); diff != "" {
		t.Errorf("the record on disk is not the one returned: -disk +returned:\n%s", diff)
	}
	for _, a := range rec.Attachments {
		if a.Phase != Added || a.Result == nil {
			t.Errorf("%s: phase %s, result %s", a.Name, a.Phase, a.Result)
		}
	}
	result, err := rec.Result()
	if err != nil {
		t.Fatal(err)
	}
	if v := result.Version(); v != "1.0.0" {
		t.Errorf("the default network's result has version %s", v)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ADD rec-a eth0", "ADD rec-b net1", "ADD rec-c net1", "ADD rec-d net2",
		"DEL rec-d net2", "DEL rec-c net1", "DEL rec-b net1", "DEL rec-a eth0",
	}
	if diff := cmp.Diff(want, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), n.left()); diff != "" {
		t.Errorf("left behind: -want +got:\n%s", diff)
	}
}

// What a plugin is given is what a runtime with libcni would give it.
func TestAddGivesWhatARuntimeGives(t *testing.T) {
	n := newNode(t)
	t.Setenv("TRACEPARENT", "00-1-2-3")
	t.Setenv("CNI_COMMAND", "ADD of the stub itself")
	plan := n.attachments(network.Attachment{
		Name:   "shop/one",
		Config: n.chain("one", "1.0.0", `rec-b "capabilities":{"mac":true,"ips":false},"big":12345678901234567890`, `rec-c "capabilities":{"ips":true}`),
		Capabilities: map[string]json.RawMessage{
			"mac": json.RawMessage(`"02:00:00:00:00:09"`), "ips": json.RawMessage(`["192.0.2.9/24"]`), "secret": json.RawMessage(`1`),
		},
	})
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := rec.Attachments[1].Capabilities["secret"]; ok {
		t.Error("a value that no plugin declares is on record")
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	calls := delegatetest.Calls(t, n.journal)
	b, c, cDel, bDel := calls[1], calls[2], calls[3], calls[4]
	for _, got := range []delegatetest.Call{b, c, cDel, bDel} {
		if got.ContainerID != "c1" || got.Netns != n.netns || got.IfName != "net1" || got.Path != n.Path ||
			got.Args != "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:09" {
			t.Errorf("%s %s: environment %+v", got.Verb, got.Plugin, got)
		}
		if !slices.Contains(got.Env, "TRACEPARENT=00-1-2-3") {
			t.Errorf("%s %s: the runtime's own environment is not passed on", got.Verb, got.Plugin)
		}
		if k := len(slices.DeleteFunc(slices.Clone(got.Env), func(s string) bool { return !strings.HasPrefix(s, "CNI_COMMAND=") })); k != 1 {
			t.Errorf("%s %s: CNI_COMMAND stands %d times in the environment", got.Verb, got.Plugin, k)
		}
		if string(got.Stdin["name"]) != `"one"` || string(got.Stdin["cniVersion"]) != `"1.0.0"` {
			t.Errorf("%s %s: name %s, cniVersion %s", got.Verb, got.Plugin, got.Stdin["name"], got.Stdin["cniVersion"])
		}
	}
	for _, tc := range []struct{ what, want, got string }{
		{"runtimeConfig of rec-b", `{"mac":"02:00:00:00:00:09"}`, string(b.Stdin["runtimeConfig"])},
		{"runtimeConfig of rec-c", `{"ips":["192.0.2.9/24"]}`, string(c.Stdin["runtimeConfig"])},
		{"runtimeConfig of rec-c at DEL", `{"ips":["192.0.2.9/24"]}`, string(cDel.Stdin["runtimeConfig"])},
		{"a number beyond float64", `12345678901234567890`, string(b.Stdin["big"])},
		{"prevResult of the first plugin", ``, string(b.Stdin["prevResult"])},
		{"prevResult at DEL", string(rec.Attachments[1].Result), string(bDel.Stdin["prevResult"])},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tc.what, diff)
		}
	}
	if !strings.Contains(string(c.Stdin["prevResult"]), "rec-b.test") {
		t.Errorf("rec-c got no result of rec-b but %s", c.Stdin["prevResult"])
	}
}

func TestAddUndoesInReverse(t *testing.T) {
	for name, tc := range map[string]struct {
		conf    string
		code    uint
		mention []string
	}{
		"refused": {
			`rec-c "do":{"ADD":["fail"]},"code":107,"msg":"no such VLAN","stderr":"panic: almost"`, 107,
			[]string{"shop/one", "net1", "rec-c", "no such VLAN", "details", "panic: almost"},
		},
		"refused without a word": {`rec-c "do":{"ADD":["fail"]}`, types.ErrInternal, []string{"rec-c", "exit status 1"}},
		"code 11 stays":          {`rec-c "do":{"ADD":["fail"]},"code":11,"msg":"later"`, 11, []string{"later"}},
		"crashes":                {`rec-c "do":{"ADD":["crash"]}`, types.ErrInternal, []string{"rec-c", "killed"}},
		"prints garbage":         {`rec-c "do":{"ADD":["garbage"]}`, types.ErrDecodingFailure, []string{"rec-c", "502 Bad Gateway"}},
		"prints nothing":         {`rec-c "do":{"ADD":["silent"]}`, types.ErrDecodingFailure, []string{"rec-c"}},
		"prints null":            {`rec-c "do":{"ADD":["null"]}`, types.ErrDecodingFailure, []string{"rec-c", "null"}},
		"prints without end":     {`rec-c "do":{"ADD":["flood"]}`, types.ErrInternal, []string{"rec-c", "more than"}},
		"hangs":                  {`rec-c "do":{"ADD":["hang"]}`, types.ErrInternal, []string{"rec-c", "did not end in time"}},
		"a result from the future": {
			`rec-c "result":{"cniVersion":"9.0.0"}`, types.ErrDecodingFailure, []string{"rec-c", "9.0.0"},
		},
		"nulls in its result": {
			`rec-c "result":{"cniVersion":"1.0.0","ips":[null]}`, types.ErrDecodingFailure, []string{"rec-c", "null"},
		},
		"is not there": {`nothere`, types.ErrInvalidNetworkConfig, []string{"nothere", "CNI_PATH"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.Timeout = 2 * time.Second
			plan := n.attachments(
				network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b", tc.conf)},
				network.Attachment{Name: "shop/two", Config: n.chain("two", "1.0.0", "rec-d")},
			)
			_, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
			if err == nil {
				t.Fatal("ADD succeeded")
			}
			said := CNIError(n.sandbox("c1").Pod, err)
			if said.Code != tc.code {
				t.Errorf("want code %d, got %d: %s", tc.code, said.Code, said.Msg)
			}
			for _, m := range append(tc.mention, "shop/web") {
				if !strings.Contains(said.Msg, m) {
					t.Errorf("the error does not mention %q: %s", m, said.Msg)
				}
			}
			want := []string{
				"ADD rec-a eth0", "ADD rec-b net1", "ADD rec-c net1",
				"DEL rec-c net1", "DEL rec-b net1", "DEL rec-a eth0",
			}
			if name == "is not there" {
				// Nothing of its network has run, so nothing of it is to be undone, and the pod can go.
				want = []string{"ADD rec-a eth0", "DEL rec-a eth0"}
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
			if diff := cmp.Diff(want, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
		})
	}
}

// The caller's end is no reason to leave things behind.
func TestAddCanceledIsUndone(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	plan := n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"ADD":["hang"]}`)})
	done := make(chan error, 1)
	go func() {
		_, err := n.Add(ctx, n.sandbox("c1"), planned(plan))
		done <- err
	}()
	waitFor(t, "rec-b to act", func() bool {
		_, err := os.Stat(filepath.Join(n.effects, "c1-net1-rec-b"))
		return err == nil
	})
	reason := errors.New("the node goes down")
	cancel(reason)
	if err := <-done; !errors.Is(err, reason) {
		t.Errorf("want %v, got %v", reason, err)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestAddRefusesHostileInput(t *testing.T) {
	n := newNode(t)
	good := n.attachments()
	with := func(change func(*Sandbox)) Sandbox {
		sb := n.sandbox("c1")
		change(&sb)
		return sb
	}
	empty := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		sb   Sandbox
		plan []network.Attachment
		code uint
	}{
		"container id with a path":  {with(func(sb *Sandbox) { sb.ContainerID = "../../etc/passwd" }), good, 4},
		"container id empty":        {with(func(sb *Sandbox) { sb.ContainerID = "" }), good, 4},
		"container id too long":     {with(func(sb *Sandbox) { sb.ContainerID = strings.Repeat("a", 300) }), good, 4},
		"interface with a slash":    {with(func(sb *Sandbox) { sb.IfName = "a/b" }), good, 4},
		"netns relative":            {with(func(sb *Sandbox) { sb.Netns = "netns" }), good, 4},
		"netns with dots":           {with(func(sb *Sandbox) { sb.Netns = "/var/run/../run/netns/x" }), good, 4},
		"netns not there":           {with(func(sb *Sandbox) { sb.Netns = "/var/run/netns/no-such" }), good, types.ErrInvalidNetNS},
		"netns a plain file":        {with(func(sb *Sandbox) { sb.Netns = empty }), good, types.ErrInvalidNetNS},
		"netns the node's":          {with(func(sb *Sandbox) { sb.Netns = "/proc/1/ns/net" }), good, types.ErrInvalidNetNS},
		"two of one interface name": {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", IfName: "eth0", Config: n.chain("x", "1.0.0", "rec-b")}), 7},
		"interface of a plan":       {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", IfName: "a/../b", Config: n.chain("x", "1.0.0", "rec-b")}), 7},
		"plugin with a path":        {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", Config: n.chain("x", "1.0.0", "../../bin/sh")}), 7},
		"plugin of dots":            {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", Config: n.chain("x", "1.0.0", "..")}), 7},
		"network name with a path":  {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", Config: n.chain("../x", "1.0.0", "rec-b")}), 7},
		"no JSON":                   {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", Config: json.RawMessage(`[`)}), 7},
		"future version":            {n.sandbox("c1"), n.attachments(network.Attachment{Name: "x", Config: n.chain("x", "7.0.0", "rec-b")}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Add(t.Context(), tc.sb, planned(tc.plan))
			if err == nil {
				t.Fatal("ADD succeeded")
			}
			if got := CNIError(network.Pod{}, err); got.Code != tc.code {
				t.Errorf("want code %d, got %d: %s", tc.code, got.Code, got.Msg)
			}
			if calls, left := n.trace(), n.left(); calls != nil || left != nil {
				t.Errorf("plugins ran: %v; left behind: %v", calls, left)
			}
		})
	}
}

func TestRunnerRefusesToRunItself(t *testing.T) {
	n := newNode(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dirs := filepath.SplitList(n.Path)
	plugin := filepath.Join(dirs[len(dirs)-1], "rec-a")
	if err := errors.Join(os.Remove(plugin), os.Symlink(self, plugin)); err != nil {
		t.Fatal(err)
	}
	_, err = n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments()))
	if err == nil || !strings.Contains(err.Error(), "itself") {
		t.Errorf("want an error that says itself, got %v", err)
	}
}

func TestAddAgainTearsDownFirst(t *testing.T) {
	n := newNode(t)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments(
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b")}))); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments())); err != nil {
		t.Fatal(err)
	}
	want := []string{"ADD rec-a eth0", "ADD rec-b net1", "DEL rec-b net1", "DEL rec-a eth0", "ADD rec-a eth0"}
	if diff := cmp.Diff(want, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
}

// A plugin may leave a child behind that holds its output, and still has answered.
func TestAddDoesNotWaitForAChildOfAPlugin(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"ADD":["fork"]}`)})
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(rec.Attachments[1].Result), "rec-b.test") {
		t.Errorf("result %s", rec.Attachments[1].Result)
	}
	endChild(t, filepath.Join(n.effects, "c1-net1-rec-b.child"))
}

// A plugin that fails or hangs takes its children with it, before its DEL runs.
func TestUndoEndsThePluginsChildren(t *testing.T) {
	for _, how := range []string{"fail", "hang", "crash"} {
		t.Run(how, func(t *testing.T) {
			n := newNode(t)
			n.Timeout = 2 * time.Second
			plan := n.attachments(network.Attachment{
				Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"ADD":["child","`+how+`"]},"code":7,"msg":"no"`),
			})
			if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err == nil {
				t.Fatal("ADD succeeded")
			}
			child := filepath.Join(n.effects, "c1-net1-rec-b.child")
			if err := os.Remove(child); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
			calls := delegatetest.Calls(t, n.journal)
			for _, pid := range groupMembers(t, calls[1].PID) {
				t.Errorf("process %d of the plugin's group is still there", pid)
			}
		})
	}
}

func TestDeviceInfo(t *testing.T) {
	n := newNode(t)
	info := devinfo.Info{Type: "pci", PCI: &devinfo.PCI{Address: "0000:02:10.0"}}
	if err := n.Devices.WriteDevice("intel.com/sriov", "0000:02:10.0", info); err != nil {
		t.Fatal(err)
	}
	device := &network.Device{Resource: "intel.com/sriov", ID: "0000:02:10.0"}
	plan := n.attachments(
		network.Attachment{Name: "shop/one", Device: device, Config: n.chain("one", "1.0.0", `rec-b "capabilities":{"CNIDeviceInfoFile":true}`, "rec-c")},
		network.Attachment{Name: "shop/two", Device: &network.Device{Resource: "intel.com/other", ID: "x"}, Config: n.chain("two", "1.0.0", "rec-d")},
	)
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(n.Devices.Root, "cni", "shop-one-c1_net1-device.json")
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	calls := delegatetest.Calls(t, n.journal)
	if got, want := string(calls[1].Stdin["runtimeConfig"]), `{"CNIDeviceInfoFile":"`+file+`"}`; got != want {
		t.Errorf("rec-b: runtimeConfig %s, want %s", got, want)
	}
	if got := calls[2].Stdin["runtimeConfig"]; got != nil {
		t.Errorf("rec-c, which does not declare it: runtimeConfig %s", got)
	}
	if !strings.Contains(string(rec.Attachments[1].DeviceInfo), "0000:02:10.0") || rec.Attachments[2].DeviceInfo != nil {
		t.Errorf("device-info on record: %s, %s", rec.Attachments[1].DeviceInfo, rec.Attachments[2].DeviceInfo)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeviceName(t *testing.T) {
	id := strings.Repeat("f", 64)
	long := strings.Repeat("n", 63) + "/" + strings.Repeat("d", 253)
	got := deviceName(long, id, "net1")
	if len(got) > 220 || got == deviceName(long, id, "net2") || !strings.HasSuffix(got, "-"+id+"_net1") {
		t.Errorf("a long name becomes %q", got)
	}
	if got := deviceName("shop/one", "c1", "net1"); got != "shop-one-c1_net1" {
		t.Errorf("got %q", got)
	}
}

// A plugin gets no configuration as long as the intent is not on file: it is started meanwhile, and ended without.
func TestAddThatCannotBeWrittenDown(t *testing.T) {
	for name, tc := range map[string]struct {
		breakIt func(n *node) error
		calls   []string
	}{
		"the first record": {
			func(n *node) error { return os.Mkdir(filepath.Join(n.Records.Dir, ".c1.tmp"), 0o700) },
			[]string{"DEL rec-a eth0"},
		},
		"a later one": {
			func(n *node) error { // as soon as the first is there
				go func() {
					for os.Remove(filepath.Join(n.Records.Dir, "c1.json")) != nil {
						time.Sleep(time.Millisecond)
					}
				}()
				return nil
			},
			[]string{"ADD rec-a eth0", "DEL rec-b net1", "DEL rec-a eth0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if err := errors.Join(os.MkdirAll(n.Records.Dir, 0o700), tc.breakIt(n)); err != nil {
				t.Fatal(err)
			}
			_, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b")})))
			if plugin := new(PluginError); err == nil || errors.As(err, &plugin) || !strings.Contains(err.Error(), "write down the intent") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tc.calls, n.trace()); diff != "" {
				t.Errorf("calls: -want +got:\n%s", diff)
			}
			if err := os.RemoveAll(filepath.Join(n.Records.Dir, ".c1.tmp")); err != nil {
				t.Fatal(err)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
