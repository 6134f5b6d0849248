// Package takeovertest lays out what other projects' CNI plugins left on a node, as it was captured there.
package takeovertest

import (
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// What the capture is of: one pod with two VFs on network sriov-net, host-local addresses, VLAN 100.
const (
	ContainerID = "a3881872b25524ac30db08b166a74420bf8eaf3b2aa1cb759f02300f2caa16b0"
	Netns       = "/var/run/netns/cni-2ae7de5f-fd50-fcfe-cbad-265507df65e8"
	VF1, VF2    = "0000:02:10.2", "0000:02:10.4"
)

// captured holds each file's path below the node's root and its text: of multus-cni 4.3 and sriov-cni 2.10 on containerd 2.4
// and a kubelet 1.36, with a pod running.
//
//go:embed captured.json
var captured []byte

// Node writes the files below a folder of the test, and returns that. A text that change knows is changed first.
func Node(t testing.TB, change map[string]func(string) string) (root string) {
	t.Helper()
	var files map[string]string
	if err := json.Unmarshal(captured, &files); err != nil {
		t.Fatal(err)
	}
	root = t.TempDir()
	for path, text := range files {
		if f := change[path]; f != nil {
			text = f(text)
		}
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
