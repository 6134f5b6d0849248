//go:build lab

package sriov_test

import (
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// hostLocal is where host-local keeps the leases of each network, by its name.
const hostLocal = "/var/lib/cni/networks"

// A peerPod is the captured pod, on this machine: two VFs on VLAN 100 with addresses of host-local, attached by Multus and
// sriov-cni. The files are theirs as captured, but for what names this machine's VFs and namespace.
type peerPod struct {
	*pod
	bin   string
	files []string // what they left, all to be gone
}

func (n *node) attachedByPeers(vfs [2]*pci.Device) (p *peerPod, was [2]state) {
	n.Helper()
	p = &peerPod{pod: n.newPod(), bin: n.TempDir()}
	p.id = takeovertest.ContainerID
	for name, program := range map[string]string{
		"sriov": "sriov-cni", "meta-cni": "meta-cni", "host-local": "cni-plugins/host-local", "bridge": "cni-plugins/bridge",
	} {
		path, err := filepath.Abs("../../bin/" + program)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err == nil {
			err = os.Symlink(path, filepath.Join(p.bin, name))
		}
		if err != nil {
			n.Fatalf("%v (make build bin/cni-plugins makes it)", err)
		}
	}
	names := map[string]string{takeovertest.Netns: p.path()}
	saved := map[string]func(string) string{}
	for i, d := range vfs {
		net := "net" + strconv.Itoa(i+1)
		was[i] = n.state(d)
		saved["var/lib/cni/sriov/"+p.id+"-"+net] = func(text string) string { return was[i].savedAs(n.T, d, text) }
		n.ip("link", "set", n.uplink(d), "vf", strconv.Itoa(d.VFIndex), "vlan", "100", "spoofchk", "on", "trust", "off")
		n.ip("link", "set", was[i].Netdev.Name, "netns", p.ns, "name", net)
		n.ip("-n", p.ns, "link", "set", net, "up")
		p.hostLocal("ADD", net)
		names[[2]string{takeovertest.VF1, takeovertest.VF2}[i]] = d.Address.String()
	}
	root := takeovertest.Node(n, saved)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		here := replaced(strings.TrimPrefix(path, root), names)
		n.write(here, replaced(string(text), names))
		if !strings.HasSuffix(here, ".lock") && !strings.Contains(here, "/devinfo/dp/") {
			p.files = append(p.files, here)
		}
		return nil
	})
	if err != nil {
		n.Fatal(err)
	}
	return p, was
}

// hostLocal has the plugin itself give the captured network's addresses, or take them back.
func (p *peerPod) hostLocal(verb, net string) {
	p.Helper()
	p.exec("host-local", verb, net, `{"cniVersion":"1.0.0","name":"sriov-net","type":"sriov","ipam":{"type":"host-local","subnet":"10.56.0.0/24"}}`)
}

func (p *peerPod) exec(plugin, verb, ifName, stdin string) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), filepath.Join(p.bin, plugin))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+p.id, "CNI_NETNS="+p.path(), "CNI_IFNAME="+ifName, "CNI_PATH="+p.bin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=ref1")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if p.Logf("%s %s %s\n%s", plugin, verb, ifName, out); err != nil {
		p.Fatalf("%s %s: %v", plugin, verb, err)
	}
}

var encoded = regexp.MustCompile(`"[A-Za-z0-9+/]{40,}=*"`)

// replaced changes names in a text, and in the configurations that stand in it in base64.
func replaced(text string, names map[string]string) string {
	// All at once: one VF's address here may be the other's there.
	var pairs []string
	for from, to := range maps.All(names) {
		pairs = append(pairs, from, to)
	}
	plain := strings.NewReplacer(pairs...)
	return encoded.ReplaceAllStringFunc(plain.Replace(text), func(quoted string) string {
		data, err := base64.StdEncoding.DecodeString(strings.Trim(quoted, `"`))
		if err != nil || !json.Valid(data) {
			return quoted
		}
		return `"` + base64.StdEncoding.EncodeToString([]byte(plain.Replace(string(data)))) + `"`
	})
}

func addressesOf(t *testing.T, network string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(hostLocal, network, "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A pod that Multus and sriov-cni attached before the node was ours ends: the runtime calls our meta-cni, which calls our sriov
// and the pod's other plugins. Nothing of it is left, theirs or ours.
func TestTakeoverOfAPod(t *testing.T) {
	n := newNode(t)
	vfs := [2]*pci.Device{n.vfs[1], n.vfs[2]}
	for _, how := range []string{"its DEL", "its DEL without a namespace"} {
		t.Run(how, func(t *testing.T) {
			n.T = t
			p, was := n.attachedByPeers(vfs)
			if got := addressesOf(t, "sriov-net"); len(got) != 2 {
				t.Fatalf("addresses that the pod has: %v", got)
			}
			if how != "its DEL" {
				p.kill()
			}
			dir := t.TempDir()
			conf, err := json.Marshal(map[string]any{
				"cniVersion": "1.1.0", "name": "viaduct", "type": "meta-cni", "stateDir": dir + "/pods", "runDir": dir + "/run",
				"delegates": []any{json.RawMessage(`{"cniVersion":"1.0.0","name":"default","plugins":[{"type":"bridge","bridge":"cni0","ipam":{"type":"host-local","subnet":"10.244.0.0/24"}}]}`)},
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // a runtime may ask twice
				p.exec("meta-cni", "DEL", "eth0", string(conf))
			}
			for i, d := range vfs {
				if err := n.leftovers(d, was[i]); err != nil {
					t.Errorf("net%d: %v", i+1, err)
				}
			}
			if left := addressesOf(t, "sriov-net"); left != nil {
				t.Errorf("addresses still taken: %v", left)
			}
			var left []string
			for _, path := range p.files {
				if _, err := os.Lstat(path); err == nil {
					left = append(left, path)
				}
			}
			records, err := filepath.Glob(dir + "/pods/*.json")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string(nil), append(left, records...)); diff != "" {
				t.Errorf("files left:\n%s", diff)
			}
		})
	}
}
