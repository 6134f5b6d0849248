//go:build lab

package sriov_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// bind gives a device another driver.
func bind(t *testing.T, d *pci.Device, driver string) {
	t.Helper()
	dir := filepath.Join("/sys/bus/pci/devices", d.Address.String())
	for _, w := range []struct{ file, value string }{
		{filepath.Join(dir, "driver/unbind"), d.Address.String()},
		{filepath.Join(dir, "driver_override"), driver + "\n"},
		{"/sys/bus/pci/drivers_probe", d.Address.String()},
	} {
		if err := os.WriteFile(w.file, []byte(w.value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func loadVFIO(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("modprobe", "vfio-pci").CombinedOutput(); err != nil {
		t.Fatalf("modprobe vfio-pci: %v: %s", err, out)
	}
}

// Somebody binds a VF to vfio-pci after its pod died, before its DEL: the VF stays with that driver and works with it, and
// nothing of the dead pod is left on the PF.
func TestDriverChangesHands(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	before := n.inUse(d)
	old, next := n.newPod(), n.newPod()
	c := full()
	delete(c, "mtu")
	old.call("ADD", old.conf(d, c)).must(t)
	old.kill()
	if _, err := eventually(func() (vf.Netdev, error) { return n.host.Find(d.Address.String()) }); err != nil {
		t.Fatal(err)
	}
	n.giveToVFIO(d)
	old.call("DEL", old.conf(d, c)).must(t)
	if s := n.state(d); s.Driver != "vfio-pci" || *s.Settings.VLAN != *before.VLAN || *s.Settings.Trust || !*s.Settings.SpoofCheck || *s.Settings.Rate != (vf.Rate{}) {
		t.Errorf("after DEL: driver %s, %v; was %v", s.Driver, s.Settings, before)
	}
	given := n.state(d)
	next.call("ADD", next.conf(d, c)).must(t)
	next.call("DEL", next.conf(d, c)).must(t)
	if err := n.leftovers(d, given); err != nil {
		t.Error(err)
	}
}

// A VF of DPDK has no interface: the PF's side is set and taken back, and the addresses are the pod's own business.
func TestDPDK(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	n.giveToVFIO(d)
	before, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	for _, dies := range []bool{false, true} {
		p := n.newPod()
		c := full()
		delete(c, "mtu")
		result := unmarshal(t, p.call("ADD", p.conf(d, c)).must(t))
		if i := result.Interfaces[0]; i.Mac != "02:00:00:00:00:17" || i.PciID != d.Address.String() || len(result.IPs) != 2 {
			t.Errorf("result: %+v, %v", i, result.IPs)
		}
		inUse, err := n.host.Read(n.pf(d), d.VFIndex)
		if err != nil {
			t.Fatal(err)
		}
		if inUse.VLAN.ID != 100 || !*inUse.Trust {
			t.Errorf("the PF's entry in use: %v", inUse)
		}
		p.call("CHECK", p.conf(d, c)).must(t)
		if dies {
			p.kill()
		}
		p.call("DEL", p.conf(d, c)).must(t)
		after, err := n.host.Read(n.pf(d), d.VFIndex)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("after DEL: %s", diff)
		}
	}
}
