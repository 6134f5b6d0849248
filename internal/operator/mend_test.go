package operator

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A VF that is free by its record may be a pod's whose network is none of ours: only the kubelet knows.
func TestMayBeHeld(t *testing.T) {
	deaf := errors.New("no socket")
	known := &sriov.View{Record: &sriov.Record{}}
	netdev := &sriov.View{Record: &sriov.Record{Baseline: sriov.Baseline{Netdev: &vf.Netdev{}}}}
	tests := map[string]struct {
		vf   VF
		deaf error
		want error
	}{
		"free":                        {VF{State: Free, view: known}, nil, nil},
		"free, and nobody knows":      {VF{State: Free, view: known}, deaf, ErrUnknown},
		"no record, and nobody knows": {VF{State: Free, view: &sriov.View{}}, deaf, nil},
		"a pod's":                     {VF{State: Allocated, Owner: &Owner{Pod: "p"}, view: known}, nil, ErrHeld},
		"left":                        {VF{State: Left, view: netdev}, nil, nil},
		"left, and nobody knows":      {VF{State: Left, view: netdev}, deaf, nil},
		"left, a pod's by now":        {VF{State: Left, view: netdev, holder: &Owner{Pod: "q"}}, nil, ErrHeld},
		"half back, a pod's by now":   {VF{State: Removing, view: netdev, holder: &Owner{Pod: "q"}}, nil, ErrHeld},
		"left, without an interface":  {VF{State: Left, view: known}, nil, nil},
		"so, and nobody knows":        {VF{State: Left, view: known}, deaf, ErrUnknown},
		"half back, nobody knows":     {VF{State: Removing, view: known}, deaf, ErrUnknown},
		"attached":                    {VF{State: Attached, view: known, holder: &Owner{Pod: "q"}}, deaf, nil},
	}
	for name, tt := range tests {
		if err := tt.vf.mayBeHeld(tt.deaf); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// In another mount namespace every pod would look dead.
func TestGCSeesTheRuntimesMounts(t *testing.T) {
	if err := sameFile("/proc/self/ns/mnt", "/proc/self/ns/mnt"); err != nil {
		t.Error(err)
	}
	for _, other := range []string{"/proc/self/ns/net", "/proc/self/ns/none"} {
		if err := sameFile("/proc/self/ns/mnt", other); !errors.Is(err, ErrElsewhere) {
			t.Errorf("%s: %v", other, err)
		}
	}
}

// A VF that somebody uses is nothing that gc could not do.
func TestGCLeavesTheLiving(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 0)
	tree.Write("proc/sys/kernel/random/boot_id", "now")
	own, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	id, err := own.ID()
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Root: tree.Root, StateDir: "/run/vfs", Log: slog.New(slog.DiscardHandler)}
	p := n.Plugin()
	const key = "0000:02:10.0"
	unheld := func(string) error { return nil }
	r := &sriov.Record{
		Boot: "before", Phase: sriov.Attached, Owner: sriov.Owner{ContainerID: "c", IfName: "net1"},
		Netns: sriov.Place{Path: "/proc/thread-self/ns/net", ID: id}, Identity: sriov.Identity{PF: pci.Address{Bus: 2}},
	}
	if err := p.Records.Write(key, r); err != nil {
		t.Fatal(err)
	}
	if c := n.gcVF(t.Context(), p, key, unheld, false); c != nil {
		t.Errorf("its owner lives: %+v", c)
	}
	r.Netns.Path = "/run/netns/none"
	if err := p.Records.Write(key, r); err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[error]Collected{
		ErrHeld:    {Outcome: "left alone: a pod has the VF"},
		ErrUnknown: {Error: "whether a pod has the VF is not known"},
	} {
		for _, dryRun := range []bool{false, true} {
			c := n.gcVF(t.Context(), p, key, func(string) error { return answer }, dryRun)
			if c == nil || c.Outcome != want.Outcome || c.Error != want.Error {
				t.Errorf("the kubelet: %v: %+v", answer, c)
			}
		}
	}
	if c := n.gcVF(t.Context(), p, key, unheld, false); c == nil || c.Error != "" || c.Outcome != string(sriov.Gone) {
		t.Errorf("its owner is gone: %+v", c)
	}
}

// Who has a VF by the kubelet counts if the record says somebody else, or does not know.
func TestHolder(t *testing.T) {
	l := &look{kubelet: kubeletView{held: map[string]holder{"v": {"ns", "new", "app", "r"}}}}
	tests := map[string]struct {
		args  string
		owner string
		other string
	}{
		"the same pod's":       {"K8S_POD_NAMESPACE=ns;K8S_POD_NAME=new", "ns/new net1", ""},
		"another pod's":        {"K8S_POD_NAMESPACE=ns;K8S_POD_NAME=old", "ns/old net1", "ns/new (app)"},
		"of another namespace": {"K8S_POD_NAMESPACE=other;K8S_POD_NAME=new", "other/new net1", "ns/new (app)"},
		"nobody knows whose":   {"", "ns/new net1", "ns/new (app)"},
	}
	for name, tt := range tests {
		record := &sriov.Record{Phase: sriov.Attached, Owner: sriov.Owner{ContainerID: "c", IfName: "net1"}, Invocation: &sriov.Invocation{Args: tt.args}}
		owner, other := l.owner("v", &sriov.View{Record: record})
		if owner.String() != tt.owner || (other == nil) != (tt.other == "") || other != nil && other.String() != tt.other {
			t.Errorf("%s: %v, and by the kubelet %v", name, owner, other)
		}
	}
}

// A kubelet that has just started is not believed.
func TestDoubt(t *testing.T) {
	tests := map[string]struct {
		named, living []string
		doubted       bool
	}{
		"no pod at all":              {nil, nil, true},
		"no pod, and some live":      {nil, []string{"a/b"}, true},
		"the static ones alone":      {[]string{"kube-system/etcd"}, []string{"a/b"}, true},
		"those that have no network": {[]string{"kube-system/etcd"}, nil, false},
		"one of those that live":     {[]string{"a/b", "kube-system/etcd"}, []string{"a/b", "a/c"}, false},
	}
	for name, tt := range tests {
		v := kubeletView{pods: map[string]bool{}}
		for _, pod := range tt.named {
			v.pods[pod] = true
		}
		if err := v.doubt(tt.living); (err != nil) != tt.doubted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the meta CNI plugin is told in its configuration counts for its work in vfctl, too.
func TestRunnerIsConfigured(t *testing.T) {
	tree := pcitest.New(t)
	n := &Node{Root: tree.Root, Log: slog.New(slog.DiscardHandler)}
	type told struct {
		Records, Running, Path, Devices string
		Timeout, LockWait               time.Duration
	}
	look := func() told {
		t.Helper()
		if err := n.Find(); err != nil {
			t.Fatal(err)
		}
		r := n.Runner()
		return told{r.Records.Dir, r.Running.Dir, r.Path, r.Devices.Root, r.Timeout, r.LockWait}
	}
	at := func(path string) string { return n.path(path) }
	want := told{Records: at("/var/lib/viaduct/pods"), Running: at("/run/viaduct/pods"), Path: "/opt/cni/bin", Devices: at("/var/run/k8s.cni.cncf.io/devinfo")}
	if d := cmp.Diff(want, look()); d != "" {
		t.Errorf("without a configuration: %s", d)
	}
	tree.Write("etc/cni/net.d/00-viaduct.conflist", `{"plugins": [{"type": "meta-cni", "stateDir": "/s", "runDir": "/r", "binDir": "/b",
		"deviceInfoDir": "/d", "pluginTimeoutSeconds": 1.5, "lockWaitSeconds": 3}]}`)
	*n = Node{Root: tree.Root, Log: n.Log}
	want = told{at("/s"), at("/r"), "/opt/cni/bin:/b", at("/d"), 1500 * time.Millisecond, 3 * time.Second}
	if d := cmp.Diff(want, look()); d != "" {
		t.Errorf("with one: %s", d)
	}
}
