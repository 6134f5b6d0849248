package takeover_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
)

const id = takeovertest.ContainerID

func folders(root string) (takeover.Multus, takeover.SRIOV) {
	return takeover.Multus(filepath.Join(root, "var/lib/cni/multus")), takeover.SRIOV(filepath.Join(root, "var/lib/cni/sriov"))
}

func TestSandboxOfMultus(t *testing.T) {
	multus, _ := folders(takeovertest.Node(t, nil))
	got, err := multus.Sandbox(id, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, d := range got {
		if !strings.Contains(string(d.Result), `"cniVersion":"1.0.0"`) || d.Netns != takeovertest.Netns {
			t.Errorf("%s: netns %q, result %s", d.IfName, d.Netns, d.Result)
		}
		if !strings.HasPrefix(d.CNIArgs(), "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=ref1;") {
			t.Errorf("%s: CNI_ARGS %q", d.IfName, d.CNIArgs())
		}
		said = append(said, d.Name+" "+d.IfName+" "+string(d.Capabilities["deviceID"])+" "+string(d.Config))
	}
	want := []string{
		`default eth0  {"cniVersion":"1.0.0","name":"default","plugins":[{"bridge":"cni0","ipam":{"subnet":"10.244.0.0/24","type":"host-local"},"isGateway":true,"type":"bridge"}]}`,
		`default/sriov-net net1 "0000:02:10.2" {"cniVersion":"1.0.0","deviceID":"0000:02:10.2","ipam":{"subnet":"10.56.0.0/24","type":"host-local"},"name":"sriov-net","pciBusID":"0000:02:10.2","spoofchk":"on","trust":"off","type":"sriov","vlan":100}`,
		`default/sriov-net net2 "0000:02:10.4" {"cniVersion":"1.0.0","deviceID":"0000:02:10.4","ipam":{"subnet":"10.56.0.0/24","type":"host-local"},"name":"sriov-net","pciBusID":"0000:02:10.4","spoofchk":"on","trust":"off","type":"sriov","vlan":100}`,
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("delegates (-want +got):\n%s", diff)
	}
	if err := multus.Forget(id, got); err != nil {
		t.Fatal(err)
	}
	if left := files(t, string(multus)); left != nil {
		t.Errorf("left: %v", left)
	}
	if _, err := multus.Sandbox(id, "eth0"); !errors.Is(err, takeover.ErrNotExist) {
		t.Errorf("after it was forgotten: %v", err)
	}
	if err := multus.Forget(id, nil); err != nil {
		t.Errorf("forget it again: %v", err)
	}
}

func TestSandboxOfMultusThatCannotBe(t *testing.T) {
	const file = "var/lib/cni/multus/" + id
	for name, text := range map[string]string{
		"empty":               "",
		"cut":                 `[{"Name":"default","Bytes":"eyJjbm`,
		"no network":          "[]",
		"no configuration":    `[{"Name":"default"}]`,
		"a name with slashes": `[{"Name":"default","Bytes":"eyJuYW1lIjoiLi4vLi4veCJ9"}]`, // {"name":"../../x"}
	} {
		t.Run(name, func(t *testing.T) {
			multus, _ := folders(takeovertest.Node(t, map[string]func(string) string{file: func(string) string { return text }}))
			if got, err := multus.Sandbox(id, "eth0"); !errors.Is(err, takeover.ErrCorrupt) {
				t.Errorf("%v, %v", got, err)
			}
			path, err := multus.SetAside(id)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != text {
				t.Errorf("set aside: %q, %v", data, err)
			}
			if _, err := multus.Sandbox(id, "eth0"); !errors.Is(err, takeover.ErrNotExist) {
				t.Errorf("after it was set aside: %v", err)
			}
		})
	}
}

func TestVFOfSRIOVCNI(t *testing.T) {
	_, sriov := folders(takeovertest.Node(t, nil))
	now, older, err := sriov.VF(takeovertest.VF1)
	if err != nil || len(older) != 0 {
		t.Fatal(now, older, err)
	}
	yes, no := true, false
	want := takeover.VFState{
		HostIFName: "eth8", AdminMAC: "00:00:00:00:00:00", EffectiveMAC: "d6:8e:da:e3:ab:63", MTU: 1500,
		SpoofChk: &yes, Trust: &no, VlanProto: 0x8100,
	}
	if diff := cmp.Diff(want, now.Before); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	if got := []string{now.ContainerID, now.IfName, now.Network, now.Netns}; !cmp.Equal(got, []string{id, "net1", "sriov-net", takeovertest.Netns}) {
		t.Errorf("owner: %q", got)
	}
	if !strings.Contains(string(now.Config), `"subnet":"10.56.0.0/24"`) || !strings.Contains(now.Args, "K8S_POD_NAME=ref1") {
		t.Errorf("from libcni's cache: %s, %s", now.Config, now.Args)
	}
	if got := sriov.Device(id, "net2"); got != takeovertest.VF2 {
		t.Errorf("the VF of net2 is %q", got)
	}
	for _, bad := range [][2]string{{id, "net7"}, {"../../../etc", "x"}, {id, "/../x"}} {
		if got := sriov.Device(bad[0], bad[1]); got != "" {
			t.Errorf("the VF of %q is %q", bad, got)
		}
	}
	if err := sriov.Forget(takeovertest.VF1, now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sriov.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
		t.Errorf("after it was forgotten: %v", err)
	}
	if got, err := sriov.VFs(); err != nil || !cmp.Equal(got, []string{takeovertest.VF2}) {
		t.Errorf("in use: %v, %v", got, err)
	}
}

// The file of an owner whose DEL failed stays: the VF is whose was saved last.
func TestVFOfSRIOVCNIWithOlderOwners(t *testing.T) {
	root := takeovertest.Node(t, nil)
	_, sriov := folders(root)
	data, err := os.ReadFile(filepath.Join(string(sriov), id+"-net1"))
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(string(sriov), "dead-net1-a")
	if err := errors.Join(os.WriteFile(stale, data, 0o600), os.Chtimes(stale, time.Time{}, time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	now, older, err := sriov.VF(takeovertest.VF1)
	if err != nil || now.ContainerID != id || len(older) != 1 || older[0].ContainerID != "dead" || older[0].IfName != "net1-a" || older[0].Netns != "" {
		t.Errorf("%+v, %+v, %v", now, older, err)
	}
}

func TestVFOfSRIOVCNIWithoutAnOwner(t *testing.T) {
	for name, text := range map[string]string{"cut": `{"MAC":"","MTU":15`, "without what it was": `{"deviceID":"0000:02:10.2"}`} {
		_, sriov := folders(takeovertest.Node(t, map[string]func(string) string{
			"var/lib/cni/sriov/" + id + "-net1": func(string) string { return text },
		}))
		if now, _, err := sriov.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, now, err)
		}
		if _, err := sriov.SetAside(takeovertest.VF1); err != nil {
			t.Fatal(err)
		}
		if now, _, err := sriov.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
			t.Errorf("%s, set aside: %+v, %v", name, now, err)
		}
	}
}

// What is no plain file says nothing of where the VF is, and is set aside like any other.
func TestVFOfSRIOVCNIWithoutAFile(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"a link":   func(path string) error { return os.Symlink("/proc/self/ns/net", path) },
		"a pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		for _, address := range []string{takeovertest.VF1, "0000:02:10.6"} { // with an owner's file, and without
			_, sriov := folders(takeovertest.Node(t, nil))
			path := filepath.Join(string(sriov), "pci", address)
			if err := errors.Join(os.RemoveAll(path), put(path)); err != nil {
				t.Fatal(err)
			}
			now, older, err := sriov.VF(address)
			if !errors.Is(err, takeover.ErrCorrupt) || now == nil || now.Netns != "" || now.Saved.IsZero() || older != nil {
				t.Errorf("%s for %s: %+v, %+v, %v", name, address, now, older, err)
			}
			if _, err := sriov.SetAside(address); err != nil {
				t.Error(err)
			}
			if now, _, err := sriov.VF(address); !errors.Is(err, takeover.ErrNotExist) {
				t.Errorf("%s for %s, set aside: %+v, %v", name, address, now, err)
			}
		}
	}
}

// On a node that never had sriov-cni, nothing is made for its sake.
func TestSetAsideOfNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sriov")
	if _, err := takeover.SRIOV(dir).SetAside(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
}

// A version before 2.7, or an ADD that was killed, has left the owner's file alone: where the VF is stands in libcni's cache.
func TestVFOfSRIOVCNIWithoutItsAddress(t *testing.T) {
	root := takeovertest.Node(t, nil)
	_, sriov := folders(root)
	if err := os.Remove(filepath.Join(string(sriov), "pci", takeovertest.VF1)); err != nil {
		t.Fatal(err)
	}
	now, _, err := sriov.VF(takeovertest.VF1)
	if err != nil || now.ContainerID != id || now.IfName != "net1" || now.Netns != takeovertest.Netns {
		t.Errorf("%+v, %v", now, err)
	}
	if err := os.RemoveAll(filepath.Join(root, "var/lib/cni/multus/results")); err != nil {
		t.Fatal(err)
	}
	if now, _, err = sriov.VF(takeovertest.VF1); err != nil || now.ContainerID != id || now.Netns != "" {
		t.Errorf("without libcni's cache: %+v, %v", now, err)
	}
	if err := sriov.Forget(takeovertest.VF1, now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sriov.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
		t.Errorf("after it was forgotten: %v", err)
	}
}

// Versions before 2.10 lock the file that names the namespace, and leave it empty if their ADD fails.
func TestVFOfSRIOVCNIThatIsOnlyLocked(t *testing.T) {
	_, sriov := folders(takeovertest.Node(t, nil))
	const free = "0000:02:10.6"
	path := filepath.Join(string(sriov), "pci", free)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now, _, err := sriov.VF(free); !errors.Is(err, takeover.ErrNotExist) {
		t.Errorf("%+v, %v", now, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, ok := sriov.Idle(free); ok {
		t.Error("a VF that such a version works on is idle")
	}
}

// Values that cannot be are no baseline. The answer says only where the VF is; what there is of it is set aside together.
func TestVFOfSRIOVCNIThatCannotBe(t *testing.T) {
	for name, change := range map[string][2]string{
		"a path for a name":       {`"eth8"`, `"../../etc"`},
		"a name too long":         {`"eth8"`, `"0123456789abcdef"`},
		"a name with a blank":     {`"eth8"`, `"eth 8"`},
		"a name to be filled in":  {`"eth8"`, `"eth%d"`},
		"no MAC":                  {`"d6:8e:da:e3:ab:63"`, `"d6:8e"`},
		"a group's MAC":           {`"d6:8e:da:e3:ab:63"`, `"01:00:5e:00:00:01"`},
		"a group's MAC on the PF": {`"00:00:00:00:00:00"`, `"01:00:5e:00:00:01"`},
		"an MTU below IPv4's":     {`"LinkState":0,"MTU":1500`, `"LinkState":0,"MTU":12`},
		"no VLAN":                 {`"Vlan":0`, `"Vlan":4095`},
		"a VLAN below none":       {`"Vlan":0`, `"Vlan":-1`},
		"no priority":             {`"VlanQoS":0}`, `"VlanQoS":8}`},
		"no VLAN protocol":        {`"VlanProto":33024`, `"VlanProto":2048`},
		"a rate below none":       {`"MaxTxRate":0`, `"MaxTxRate":-1`},
		"no link state":           {`"LinkState":0`, `"LinkState":3`},
		"a text for a number":     {`"Vlan":0`, `"Vlan":"0"`},
		"nothing":                 {`"OrigVfState"`, `"Other"`},
	} {
		t.Run(name, func(t *testing.T) {
			file := "var/lib/cni/sriov/" + id + "-net1"
			root := takeovertest.Node(t, map[string]func(string) string{file: func(text string) string {
				if !strings.Contains(text, change[0]) {
					t.Fatalf("%s is not in %s", change[0], text)
				}
				return strings.Replace(text, change[0], change[1], 1)
			}})
			_, sriov := folders(root)
			want := takeover.Attachment{Netns: takeovertest.Netns}
			now, older, err := sriov.VF(takeovertest.VF1)
			if !errors.Is(err, takeover.ErrCorrupt) || now == nil || older != nil {
				t.Fatalf("%+v, %+v, %v", now, older, err)
			}
			if diff := cmp.Diff(want, *now, cmpopts.IgnoreFields(want, "Saved"), cmpopts.IgnoreUnexported(want)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if _, err := sriov.SetAside(takeovertest.VF1); err != nil {
				t.Fatal(err)
			}
			if now, _, err := sriov.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
				t.Errorf("set aside: %+v, %v", now, err)
			}
			if kept := files(t, filepath.Join(string(sriov), "viaduct-corrupt")); len(kept) != 2 {
				t.Errorf("kept: %v", kept)
			}
			if _, _, err := sriov.VF(takeovertest.VF2); err != nil {
				t.Errorf("the pod's other VF: %v", err)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	_, sriov := folders(takeovertest.Node(t, nil))
	release, ok := sriov.Idle(takeovertest.VF1)
	if !ok {
		t.Fatal("a VF that nobody works on is not idle")
	}
	if _, ok := sriov.Idle(takeovertest.VF1); ok {
		t.Error("a VF whose lock is taken is idle")
	}
	release()
	if _, ok := sriov.Idle(takeovertest.VF1); !ok {
		t.Error("a VF whose lock was given back is not idle")
	}
	if _, ok := sriov.Idle("0000:02:10.6"); !ok {
		t.Error("a VF without a lock is not idle")
	}
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
