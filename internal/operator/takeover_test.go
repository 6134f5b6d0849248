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
	const attached = `ok  attached by Multus        sandboxes in /var/lib/cni/multus: 1; meta-cni tears each down when its pod ends
ok  attached by sriov-cni     VFs: 2: 0000:02:10.2 (net1 of container a3881872b255), 0000:02:10.4 (net2 of container a3881872b255); sriov puts each back when its pod ends
ok  attached by us            nothing
`
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"before": {
			map[string]string{
				"opt/cni/bin/sriov": "theirs", "etc/cni/net.d/00-multus.conf": "{}", "etc/cni/net.d/10-flannel.conflist": "{}",
				"proc/77/comm": "sriovdp\n", "proc/78/comm": "multus-daemon\n", "proc/79/comm": "bash\n",
			},
			`!   plugin sriov              another project's
!   plugin meta-cni           not installed
!   the runtime's network     00-multus.conf: the runtime reads it before 00-viaduct.conflist; new pods get their networks from there
!   other projects' programs  Multus' daemon (process 78), the SR-IOV network device plugin (process 77): delete its DaemonSet
` + attached,
		},
		"after": {
			map[string]string{
				"opt/cni/bin/sriov": "ours", "opt/cni/bin/meta-cni": "ours", "opt/cni/bin/sriov.viaduct-saved": "theirs",
				"etc/cni/net.d/00-viaduct.conflist": "{}", "etc/cni/net.d/10-flannel.conflist": "{}",
			},
			`ok  plugin sriov              ours
ok  plugin meta-cni           ours
ok  the runtime's network     00-viaduct.conflist
ok  other projects' programs  none of Multus and the SR-IOV network device plugin runs
` + attached,
		},
		"overwritten": {
			map[string]string{
				"opt/cni/bin/sriov": "theirs", "opt/cni/bin/meta-cni": "ours", "opt/cni/bin/sriov.viaduct-saved": "theirs",
				"etc/cni/net.d/00-viaduct.conflist": "{}", "var/lib/cni/sriov/" + takeovertest.ContainerID + "-net2": "{",
				"var/lib/cni/multus/" + takeovertest.ContainerID: "[]",
			},
			`!   plugin sriov              another project has put its own over ours: its DaemonSet still runs; delete it, and restart ours
ok  plugin meta-cni           ours
ok  the runtime's network     00-viaduct.conflist
ok  other projects' programs  none of Multus and the SR-IOV network device plugin runs
ok  attached by Multus        sandboxes in /var/lib/cni/multus: 1; meta-cni tears each down when its pod ends
!   attached by sriov-cni     VFs: 1: 0000:02:10.2 (net1 of container a3881872b255); sriov puts each back when its pod ends; not readable, and reset to safe defaults once their pods are gone: 0000:02:10.4: saved state cannot be read: /var/lib/cni/sriov/pci/0000:02:10.4 says that the VF is in use, and no file of its owner is there
ok  attached by us            nothing
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
