package operator_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
)

// goingOver is a node that Multus and sriov-cni had until now, with one pod running, and what change makes of it.
func goingOver(t *testing.T, write map[string]string) *operator.Node {
	t.Helper()
	root := takeovertest.Node(t, nil)
	self, err := os.Executable() // as ours as a plugin
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range write {
		if text == "ours" {
			text = string(program)
		}
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	n := &operator.Node{Root: root}
	if err := n.Find(); err != nil {
		t.Fatal(err)
	}
	return n
}

func findings(t *testing.T, n *operator.Node) string {
	t.Helper()
	all, err := n.CheckTakeover()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := operator.PrintFindings(all)(&b); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), n.Root, "")
}

func TestCheckTakeover(t *testing.T) {
	const attached = `ok  attached by Multus     sandboxes in /var/lib/cni/multus: 1; meta-cni tears each down when its pod ends
ok  attached by sriov-cni  VFs: 2: 0000:02:10.2 (net1 of container a3881872b255), 0000:02:10.4 (net2 of container a3881872b255); sriov puts each back when its pod ends
ok  attached by us         nothing
`
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"before": {
			map[string]string{
				"opt/cni/bin/sriov": "theirs", "etc/cni/net.d/00-multus.conf": `{"type":"multus-shim"}`, "etc/cni/net.d/10-flannel.conflist": "{}",
				"proc/77/comm": "sriovdp\n", "proc/78/comm": "multus-daemon\n", "proc/79/comm": "bash\n",
			},
			`!   their device plugin    the SR-IOV network device plugin (process 77)
!   plugin sriov           another project's
!   plugin meta-cni        not installed
!   Multus' programs       Multus' daemon (process 78)
!   the runtime's network  00-multus.conf: Multus', of which new pods get their networks
` + attached + `
next:
1. delete the DaemonSets of the SR-IOV network device plugin and of sriov-cni
2. put ours on the node: kubectl apply -k conf/
3. with meta-cni on the node, delete Multus' DaemonSet
4. with meta-cni on the node, and Multus' DaemonSet gone: mv /etc/cni/net.d/00-multus.conf /etc/cni/00-multus.conf.old
`,
		},
		"under way": {
			map[string]string{
				"opt/cni/bin/sriov": "ours", "opt/cni/bin/meta-cni": "ours", "opt/cni/bin/sriov.viaduct-saved": "theirs",
				"etc/cni/net.d/00-multus.conf": `{"plugins":[{"type":"multus"}]}`, "etc/cni/net.d/00-viaduct.conflist": "{}",
			},
			`ok  their device plugin    does not run
ok  plugin sriov           ours
ok  plugin meta-cni        ours
ok  Multus' programs       does not run
!   the runtime's network  00-multus.conf: Multus', of which new pods get their networks
` + attached + `
next:
1. with meta-cni on the node, and Multus' DaemonSet gone: mv /etc/cni/net.d/00-multus.conf /etc/cni/00-multus.conf.old
`,
		},
		"after": {
			map[string]string{
				"opt/cni/bin/sriov": "ours", "opt/cni/bin/meta-cni": "ours", "opt/cni/bin/sriov.viaduct-saved": "theirs",
				"etc/cni/net.d/00-viaduct.conflist": "{}", "etc/cni/net.d/10-flannel.conflist": "{}",
				"var/lib/cni/sriov/pci/0000:02:10.6": "", // its ADD failed
			},
			`ok  their device plugin    does not run
ok  plugin sriov           ours
ok  plugin meta-cni        ours
ok  Multus' programs       does not run
ok  the runtime's network  00-viaduct.conflist
` + attached + `
next:
   nothing: new pods are ours, and pods that others attached are torn down by our plugins when they end
`,
		},
		"overwritten": {
			map[string]string{
				"opt/cni/bin/sriov": "theirs", "opt/cni/bin/meta-cni": "ours", "opt/cni/bin/sriov.viaduct-saved": "theirs",
				"etc/cni/net.d/00-calico.conflist": "{}", "etc/cni/net.d/00-viaduct.conflist": "{}", "var/lib/cni/sriov/" + takeovertest.ContainerID + "-net2": "{",
				"var/lib/cni/multus/" + takeovertest.ContainerID: "[]",
			},
			`ok  their device plugin    does not run
!   plugin sriov           another project has put its own over ours: its DaemonSet still runs
ok  plugin meta-cni        ours
ok  Multus' programs       does not run
!   the runtime's network  00-calico.conflist: the runtime reads it before 00-viaduct.conflist; new pods get their networks from there
ok  attached by Multus     sandboxes in /var/lib/cni/multus: 1; meta-cni tears each down when its pod ends
!   attached by sriov-cni  VFs: 1: 0000:02:10.2 (net1 of container a3881872b255); sriov puts each back when its pod ends; not readable, and reset to safe defaults once their pods are gone: 0000:02:10.4: saved state cannot be read: /var/lib/cni/sriov/pci/0000:02:10.4 says that the VF is in use, and no file of its owner is there
ok  attached by us         nothing

next:
1. delete the DaemonSet that installs another project's sriov, then: kubectl -n viaduct rollout restart daemonset device-plugin meta-agent
2. give /etc/cni/net.d/00-calico.conflist a name that comes after 00-viaduct.conflist
3. delete the pods that have these VFs when it suits you: what sriov-cni saved of them is lost, and their next pods get safe defaults
`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := findings(t, goingOver(t, tt.files))
			if diff := cmp.Diff(tt.want, squeeze(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// squeeze leaves out what pads the table's last column.
func squeeze(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.TrimRight(line, " \n"))
	}
	return strings.Join(out, "\n") + "\n"
}

func TestAttached(t *testing.T) {
	n := node(t)
	all, err := n.Attached()
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(all, "\n")
	for _, want := range []string{"VF 0000:02:10.0: interface net1 of container", "VF 0000:02:11.2: corrupt record "} {
		if !strings.Contains(said, want) {
			t.Errorf("%s is not among:\n%s", want, said)
		}
	}
	if strings.Contains(said, "0000:02:10.a") { // free by its record, or without one
		t.Errorf("a free VF is attached:\n%s", said)
	}
}
