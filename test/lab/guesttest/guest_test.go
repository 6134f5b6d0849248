//go:build lab

// Package guesttest holds the lab to its word from inside: go test -tags lab -exec "$PWD/bin/lab run --" ./test/lab/guesttest
package guesttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const pciDevices = "/sys/bus/pci/devices"

func attr(t *testing.T, path ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func link(t *testing.T, path ...string) string {
	t.Helper()
	to, err := os.Readlink(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(to)
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// eventually polls: under TCG on a busy machine everything takes as long as it takes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute has passed, and not yet: %s", what)
		}
	}
}

// pfs are the PCI addresses of the PFs, in bus order.
func pfs(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(pciDevices + "/*/sriov_totalvfs")
	if err != nil {
		t.Fatal(err)
	}
	addrs := make([]string, len(paths))
	for i, p := range paths {
		addrs[i] = filepath.Base(filepath.Dir(p))
	}
	return addrs
}

func netdev(t *testing.T, addr string) string {
	t.Helper()
	var name string
	eventually(t, addr+" has a network device", func() bool {
		entries, err := os.ReadDir(filepath.Join(pciDevices, addr, "net"))
		if err != nil || len(entries) == 0 {
			return false
		}
		name = entries[0].Name()
		return true
	})
	return name
}

// createVFs makes n VFs on a PF and returns their addresses; the PF is up, and has none again after the test.
func createVFs(t *testing.T, pf string, n int) []string {
	t.Helper()
	num := filepath.Join(pciDevices, pf, "sriov_numvfs")
	if err := os.WriteFile(num, fmt.Append(nil, n), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(num, []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
	run(t, "ip", "link", "set", netdev(t, pf), "up")
	vfs := make([]string, n)
	for i := range n {
		vfs[i] = link(t, pciDevices, pf, fmt.Sprintf("virtfn%d", i))
	}
	return vfs
}

func TestHardware(t *testing.T) {
	type nic struct{ ID, Driver, TotalVFs, NumVFs, NUMANode, MAC string }
	var got []nic
	for _, pf := range pfs(t) {
		dir := filepath.Join(pciDevices, pf)
		got = append(got, nic{
			attr(t, dir, "vendor") + ":" + attr(t, dir, "device"), link(t, dir, "driver"),
			attr(t, dir, "sriov_totalvfs"), attr(t, dir, "sriov_numvfs"), attr(t, dir, "numa_node"),
			attr(t, dir, "net", netdev(t, pf), "address"),
		})
	}
	want := []nic{
		{"0x8086:0x10c9", "igb", "7", "0", "0", "52:54:00:11:11:01"},
		{"0x8086:0x10c9", "igb", "7", "0", "1", "52:54:00:11:11:02"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestVFs(t *testing.T) {
	groups := map[string]string{}
	for _, pf := range pfs(t) {
		for _, vf := range createVFs(t, pf, 7) {
			if got := link(t, pciDevices, vf, "physfn"); got != pf {
				t.Errorf("VF %s has PF %s, want %s", vf, got, pf)
			}
			netdev(t, vf)
			if got := link(t, pciDevices, vf, "driver"); got != "igbvf" {
				t.Errorf("VF %s has driver %s", vf, got)
			}
			group := link(t, pciDevices, vf, "iommu_group")
			if other, ok := groups[group]; ok {
				t.Errorf("VFs %s and %s share IOMMU group %s", vf, other, group)
			}
			groups[group] = vf
		}
	}
	if len(groups) != 14 {
		t.Errorf("%d VFs in groups of their own, want 14", len(groups))
	}
}

// pod is a VF in a network namespace.
type pod struct{ ns, ip string }

func newPod(t *testing.T, i int, vf string) pod {
	t.Helper()
	p := pod{fmt.Sprintf("pod%d", i), fmt.Sprintf("10.9.0.%d", 10+i)}
	run(t, "ip", "netns", "add", p.ns)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context()) // which is over by now
		if out, err := exec.CommandContext(ctx, "ip", "netns", "del", p.ns).CombinedOutput(); err != nil {
			t.Errorf("delete %s: %v: %s", p.ns, err, out)
		}
	})
	run(t, "ip", "link", "set", netdev(t, vf), "netns", p.ns, "name", "net1")
	run(t, "ip", "-n", p.ns, "link", "set", "net1", "up")
	run(t, "ip", "-n", p.ns, "addr", "add", p.ip+"/24", "dev", "net1")
	return p
}

func (p pod) reaches(t *testing.T, q pod) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "ip", "netns", "exec", p.ns, "ping", "-c1", "-W1", q.ip).Run() == nil
}

// One VF of each PF: their frames cross the segment that joins the PFs, and a VLAN on one end parts them.
func TestFrames(t *testing.T) {
	nics := pfs(t)
	if len(nics) < 2 {
		t.Fatalf("%d PFs, want 2", len(nics))
	}
	var pods []pod
	for i, pf := range nics[:2] {
		pods = append(pods, newPod(t, i, createVFs(t, pf, 1)[0]))
	}
	reaches := func() bool { return pods[0].reaches(t, pods[1]) }
	eventually(t, "the pods reach each other", reaches)
	run(t, "ip", "link", "set", netdev(t, nics[0]), "vf", "0", "vlan", "100")
	eventually(t, "VLAN 100 on one end parts the pods", func() bool { return !reaches() })
	for range 2 {
		if reaches() {
			t.Error("the pods reach each other, one on VLAN 100 and one on none")
		}
	}
	run(t, "ip", "link", "set", netdev(t, nics[1]), "vf", "0", "vlan", "100")
	eventually(t, "the pods reach each other on VLAN 100", reaches)
}

func TestModulesLoad(t *testing.T) {
	for _, m := range []string{"vfio-pci", "8021q", "bridge", "veth", "nf_tables"} {
		run(t, "modprobe", m)
	}
	run(t, "ip", "link", "add", "lab-dummy", "type", "dummy") // the kernel asks for this module by itself
	run(t, "ip", "link", "del", "lab-dummy")
}

func TestMachine(t *testing.T) {
	if uid := os.Geteuid(); uid != 0 {
		t.Errorf("uid %d, want root", uid)
	}
	if _, err := os.Stat("guest_test.go"); err != nil {
		t.Errorf("the working folder is not the package's: %v", err)
	}
	if err := os.WriteFile("/etc/written-in-the-lab", nil, 0o600); err != nil {
		t.Errorf("the root takes no writes: %v", err)
	}
	controllers := strings.Fields(attr(t, "/sys/fs/cgroup/cgroup.subtree_control"))
	for _, c := range []string{"cpu", "memory", "pids", "cpuset"} {
		if !slices.Contains(controllers, c) {
			t.Errorf("cgroup controller %s is not among %s", c, controllers)
		}
	}
	const outOfSpec = "4" // the emulated CPU's features are cleared by hand: clearcpuid
	if got := attr(t, "/proc/sys/kernel/tainted"); got != "0" && got != outOfSpec {
		t.Errorf("the kernel is tainted: %s", got)
	}
	run(t, "ping", "-c1", "-W5", "127.0.0.1")
}
