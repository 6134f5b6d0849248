package delegate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
)

// attachedByMultus leaves what Multus left of a pod with two networks, as it was captured; the plugins are stand-ins.
func (n *node) attachedByMultus(plugins ...string) (root string) {
	n.t.Helper()
	const dir, id = "var/lib/cni/multus/", takeovertest.ContainerID
	root = takeovertest.Node(n.t, map[string]func(string) string{dir + id: func(text string) string {
		var saved []map[string]any
		if err := json.Unmarshal([]byte(text), &saved); err != nil {
			n.t.Fatal(err)
		}
		names := []string{"default", "sriov-net", "sriov-net"}
		for i := range saved {
			var conf string
			if i == 0 {
				conf = string(n.chain(names[i], "1.0.0", plugins[i]))
			} else { // a single plugin, not a list
				plugin, more, _ := strings.Cut(plugins[i], " ")
				if more != "" {
					more = "," + more
				}
				conf = fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":%q,"capabilities":{"deviceID":true},"journal":%q,"effects":%q%s}`, names[i], plugin, n.journal, n.effects, more)
			}
			saved[i]["Bytes"] = base64.StdEncoding.EncodeToString([]byte(conf))
		}
		data, err := json.Marshal(saved)
		if err != nil {
			n.t.Fatal(err)
		}
		return string(data)
	}})
	n.Multus, n.Devices.Root = takeover.Multus(filepath.Join(root, dir)), filepath.Join(root, "var/run/k8s.cni.cncf.io/devinfo")
	return root
}

// leftByMultus lists what is left of the pod.
func leftByMultus(t *testing.T, root string) (out []string) {
	t.Helper()
	for _, dir := range []string{"var/lib/cni/multus", "var/lib/cni/multus/results", "var/run/k8s.cni.cncf.io/devinfo/cni"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				out = append(out, dir+"/"+e.Name())
			}
		}
	}
	return out
}

func TestDelOfWhatMultusAttached(t *testing.T) {
	n := newNode(t)
	root := n.attachedByMultus("rec-a", "rec-b", "rec-c")
	sb := n.sandbox(takeovertest.ContainerID)
	if err := n.Del(t.Context(), sb, n.attachments()[0]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0"}, n.trace()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for i, c := range delegatetest.Calls(t, n.journal) {
		var prev struct {
			IPs []struct{ Address string }
		}
		if err := json.Unmarshal(c.Stdin["prevResult"], &prev); err != nil || len(prev.IPs) != 1 {
			t.Fatalf("call %d: prevResult %s: %v", i, c.Stdin["prevResult"], err)
		}
		if want := []string{"10.56.0.3/24", "10.56.0.2/24", "10.244.0.2/24"}[i]; prev.IPs[0].Address != want {
			t.Errorf("call %d: the address of prevResult is %s, want %s", i, prev.IPs[0].Address, want)
		}
		if want := []string{`{"deviceID":"0000:02:10.4"}`, `{"deviceID":"0000:02:10.2"}`, ""}[i]; string(c.Stdin["runtimeConfig"]) != want {
			t.Errorf("call %d: runtimeConfig %s, want %s", i, c.Stdin["runtimeConfig"], want)
		}
		if c.Netns != n.netns || c.Args != sb.Args {
			t.Errorf("call %d: netns %s, arguments %s", i, c.Netns, c.Args)
		}
	}
	if left := append(n.left(), leftByMultus(t, root)...); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// What Multus saved stays until all of it is torn down, and the next DEL goes on where this one stopped.
func TestDelOfWhatMultusAttachedFails(t *testing.T) {
	n := newNode(t)
	root := n.attachedByMultus("rec-a", `rec-b "do":{"DEL":["fail"]}`, "rec-c")
	all := leftByMultus(t, root)
	sb := n.sandbox(takeovertest.ContainerID)
	sb.Netns, sb.Args = "", ""
	for round, want := range [][]string{{"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0"}, {"DEL rec-b net1"}} {
		before := len(n.trace())
		err := n.Del(t.Context(), sb, n.attachments()[0])
		if err == nil || !strings.Contains(err.Error(), "default/sriov-net") {
			t.Errorf("round %d: %v", round, err)
		}
		if diff := cmp.Diff(want, n.trace()[before:]); diff != "" {
			t.Errorf("round %d: calls (-want +got):\n%s", round, diff)
		}
		if diff := cmp.Diff(all, leftByMultus(t, root)); diff != "" {
			t.Errorf("round %d: Multus' files (-before +after):\n%s", round, diff)
		}
	}
	if args := delegatetest.Calls(t, n.journal)[0].Args; !strings.Contains(args, "K8S_POD_NAME=ref1") {
		t.Errorf("arguments of a DEL that has none: %q, want those of Multus' ADD", args)
	}
	rec := n.record(sb.ContainerID)
	rec.Attachments[1].Config = []byte(strings.ReplaceAll(string(rec.Attachments[1].Config), `"fail"`, `"mended"`))
	if err := n.Records.Write(sb.ContainerID, rec); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), sb, n.attachments()[0]); err != nil {
		t.Fatal(err)
	}
	if left := append(n.left(), leftByMultus(t, root)...); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestDelOfWhatMultusSavedAndCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{
		"cut":                     `[{"Name":"default","By`,
		"an interface with a /":   `[{"Name":"default","Bytes":"e30="},{"Name":"n","ifnameRequest":"../x","Bytes":"e30="}]`,
		"a configuration of none": `[{"Name":"default","Bytes":"eyJuYW1lIjoieCJ9"}]`, // {"name":"x"}
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			root := n.attachedByMultus("rec-a", "rec-b", "rec-c")
			sb := n.sandbox(takeovertest.ContainerID)
			file := filepath.Join(root, "var/lib/cni/multus", sb.ContainerID)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := n.Del(t.Context(), sb, n.attachments()[0])
			if err == nil || !strings.Contains(err.Error(), file+".viaduct-corrupt") {
				t.Errorf("DEL says %v", err)
			}
			if err := n.Del(t.Context(), sb, n.attachments()[0]); err != nil {
				t.Errorf("the next one says %v", err)
			}
			if diff := cmp.Diff([]string{"DEL rec-a eth0", "DEL rec-a eth0"}, n.trace()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if data, err := os.ReadFile(file + ".viaduct-corrupt"); err != nil || string(data) != text {
				t.Errorf("what was set aside: %q, %v", data, err)
			}
		})
	}
}

// Our own record counts, not what Multus has left of another time.
func TestDelOfWhatIsOurs(t *testing.T) {
	n := newNode(t)
	n.attachedByMultus("rec-b", "rec-b", "rec-c")
	sb := n.sandbox(takeovertest.ContainerID)
	if _, err := n.Add(t.Context(), sb, planned(n.attachments())); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), sb, n.attachments()[0]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ADD rec-a eth0", "DEL rec-a eth0"}, n.trace()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// A sandbox of Multus whose DEL never came is torn down once its namespace is gone, and not before.
func TestDeadOfMultus(t *testing.T) {
	n := newNode(t)
	root := n.attachedByMultus("rec-a", "rec-b", "rec-c")
	const id = takeovertest.ContainerID
	for path, netns := range map[string]string{"living": n.netns, "unknown": ""} {
		if err := errors.Join(os.Mkdir(filepath.Join(root, path), 0o700), os.CopyFS(filepath.Join(root, path), os.DirFS(filepath.Join(root, "var/lib/cni/multus")))); err != nil {
			t.Fatal(err)
		}
		cached, err := filepath.Glob(filepath.Join(root, path, "results/*"))
		if err != nil || len(cached) != 3 {
			t.Fatal(cached, err)
		}
		for _, file := range cached {
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, []byte(strings.ReplaceAll(string(text), takeovertest.Netns, netns)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		other := &Runner{
			Records: n.Records, Running: n.Running, Path: n.Path, Devices: n.Devices, Log: n.Log,
			Multus: takeover.Multus(filepath.Join(root, path)),
		}
		if dead, err := other.DeadOfMultus(); err != nil || dead != nil {
			t.Errorf("%s: dead are %v, %v", path, dead, err)
		}
		if gone, err := other.CollectOfMultus(t.Context(), id); err != nil || gone {
			t.Errorf("%s: torn down: %v, %v", path, gone, err)
		}
	}
	if dead, err := n.DeadOfMultus(); err != nil || !cmp.Equal(dead, []string{id}) {
		t.Errorf("dead are %v, %v", dead, err)
	}
	if gone, err := n.CollectOfMultus(t.Context(), id); err != nil || !gone {
		t.Errorf("torn down: %v, %v", gone, err)
	}
	if diff := cmp.Diff([]string{"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0"}, n.trace()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if left := append(n.left(), leftByMultus(t, root)...); left != nil {
		t.Errorf("left behind: %v", left)
	}
}
