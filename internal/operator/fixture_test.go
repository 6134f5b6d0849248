package operator_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// hidden is in everything that must not leave the node.
const hidden = "hunter2"

const (
	boot      = "6f1e5b9a-0000-4000-8000-000000000001"
	sandbox   = "5c1f7d3b9a2e4c6d8f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60"
	poolsConf = `{"resourceList": [
		{"resourceName": "sriov", "selectors": {"drivers": ["igbvf"]}, "additionalInfo": {"*": {"token": "` + hidden + `"}}},
		{"resourceName": "dpdk", "selectors": {"drivers": ["vfio-pci"]}}]}`
)

// A node is a tree as it is captured on a node: two PFs, of which one has six VFs in all states that files can show.
func node(t *testing.T) *operator.Node {
	t.Helper()
	tree := pcitest.New(t)
	vfs := tree.AddIGB("02", "ens2", 4, 6)
	tree.AddIGB("03", "ens3", 20, 0)
	tree.Bind(vfs[5], "vfio-pci")
	tree.RemoveNet(vfs[5], "ens2v5")
	tree.Write("proc/sys/kernel/random/boot_id", boot)
	tree.Write("var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/config/config.json", poolsConf)
	tree.Write("etc/cni/net.d/10-default.conflist", `{"cniVersion": "1.0.0", "name": "default", "plugins": [
		{"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}, "etcd": {"name": "`+hidden+`"}}]}`)
	tree.Write("etc/cni/net.d/00-viaduct.conflist", `{"cniVersion": "1.0.0", "name": "viaduct", "plugins": [
		{"type": "meta-cni", "stateDir": "/var/lib/journals", "delegates": []}]}`)
	tree.Write("etc/viaduct/sriov.json", `{"stateDir": "/run/vfs", "logDir": "/var/log/vf"}`)
	tree.Write("var/log/vf/sriov.log", "level=ERROR msg=\"ipam failed\" error=\"password="+hidden+"\"\nlevel=INFO msg=attached")
	tree.Write("var/log/pods/viaduct_device-plugin-x_1/device-plugin/0.log", "started")
	// Of a tenant, who may call his pod as he likes, and of a container that somebody put beside ours.
	tree.Write("var/log/pods/tenant_device-plugin-x_2/device-plugin/0.log", hidden)
	tree.Write("var/log/pods/viaduct_device-plugin-x_1/sidecar/0.log", hidden)

	n := &operator.Node{
		Root: tree.Root, NodeName: "node7", Log: slog.New(slog.DiscardHandler),
		Names: func(_, device string) (string, string) {
			return "", map[string]string{"10c9": "82576 Gigabit Network Connection"}[device]
		},
	}
	if err := n.Find(); err != nil {
		t.Fatal(err)
	}
	record := func(i int, change func(*sriov.Record)) {
		r := attached(i)
		change(r)
		if err := n.Plugin().Records.Write(vfs[i], r); err != nil {
			t.Fatal(err)
		}
	}
	// 0: attached; the runtime told the pod's name.
	record(0, func(r *sriov.Record) {
		r.Invocation.Args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;X=" + hidden
	})
	// 1: adding; only the meta CNI plugin knows the pod's name.
	record(1, func(r *sriov.Record) {
		r.Phase, r.Owner.ContainerID, r.Owner.IfName = sriov.Adding, sandbox, "data0"
	})
	journal(t, n, vfs[1])
	// 2: removing, and that failed.
	record(2, func(r *sriov.Record) {
		r.Phase, r.Faults = sriov.Removing, []string{"set mac: the driver refused it (EPERM)"}
	})
	// 3: free.
	record(3, func(r *sriov.Record) {
		r.Phase, r.Owner, r.Netns, r.Wanted, r.Invocation = sriov.Free, sriov.Owner{}, sriov.Place{}, vf.Settings{}, nil
	})
	// 4: of before the boot. 5: cut off. And one of a VF that is no more.
	record(4, func(r *sriov.Record) { r.Boot = "6f1e5b9a-0000-4000-8000-000000000000" })
	tree.Write("run/vfs/"+vfs[5]+".json", `{"version": 1, "record": {"phase"`)
	if err := n.Plugin().Records.Write("0000:04:10.0", attached(0)); err != nil {
		t.Fatal(err)
	}
	return n
}

// attached is the record of VF i of ens2 with everything set.
func attached(i int) *sriov.Record {
	return &sriov.Record{
		Boot: boot, Phase: sriov.Attached,
		Owner:    sriov.Owner{ContainerID: "aaaabbbbccccddddeeee", IfName: "net1", Network: "vlan100"},
		Netns:    sriov.Place{Path: "/var/run/netns/cni-1"},
		Identity: sriov.Identity{PF: pci.Address{Bus: 2}, Index: i, Driver: "igbvf", NumVFs: 6},
		Baseline: sriov.Baseline{Settings: vf.Defaults(), Netdev: &vf.Netdev{Index: 5 + i, Name: "ens2v0", MTU: 1500}},
		Wanted: vf.Settings{
			MAC: &vf.MAC{2, 0, 0, 0, 0, 0x64}, VLAN: &vf.VLAN{ID: 100, QoS: 3, Proto: vf.Proto8021Q}, SpoofCheck: new(false),
			Trust: new(true), Rate: &vf.Rate{Max: 1000}, LinkState: new(vf.LinkEnable),
		},
		Invocation: &sriov.Invocation{
			Config: json.RawMessage(`{"cniVersion": "1.0.0", "name": "vlan100", "type": "sriov", "vlan": 100, "ipam": {"type": "whereabouts", "password": "` + hidden + `"}}`),
			Path:   "/opt/cni/bin",
		},
	}
}

func journal(t *testing.T, n *operator.Node, vf string) {
	t.Helper()
	rec := &delegate.Record{
		ContainerID: sandbox, Pod: network.Pod{Namespace: "batch", Name: "job-with-a-long-name-as-controllers-make-them-7d9fbc6c9-x2x4z", UID: "u"},
		IfName: "eth0", Boot: boot, Phase: delegate.Adding,
		Attachments: []delegate.Attached{{Phase: delegate.Adding, Attachment: network.Attachment{
			Name: "batch/fast", IfName: "data0", Config: json.RawMessage(`{"name": "fast", "plugins": [{"type": "sriov", "key": "` + hidden + `"}]}`),
			Capabilities: map[string]json.RawMessage{"io.kubernetes.cri.pod-annotations": json.RawMessage(`{"a": "` + hidden + `"}`)},
			Device:       &network.Device{Resource: "example.org/fast", ID: vf},
		}}},
	}
	if err := n.Runner().Records.Write(sandbox, rec); err != nil {
		t.Fatal(err)
	}
}

// all reads every file below a folder, by name.
func all(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
