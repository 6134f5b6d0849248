//go:build lab

package sriov_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

const theirs = "/var/lib/cni/sriov"

// attachedBySRIOVCNI puts the VF into the pod as sriov-cni does, and leaves what that leaves, as it was captured.
func (p *pod) attachedBySRIOVCNI(d *pci.Device) (was state) {
	p.Helper()
	p.id = strings.ReplaceAll(p.id, "-", "") // as runtimes make them: its files are named by id, a dash, and the interface
	was = p.state(d)
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		p.Fatal(err)
	}
	uplink, _ := pf.Uplink()
	p.ip("link", "set", uplink.Name, "vf", strconv.Itoa(d.VFIndex), "vlan", "100", "trust", "on", "spoofchk", "off", "mac", "02:00:00:00:01:00")
	p.ip("link", "set", was.Netdev.Name, "netns", p.ns, "name", "net1")
	p.ip("-n", p.ns, "link", "set", "net1", "address", "02:00:00:00:01:00", "mtu", "1400", "promisc", "on", "up")

	captured := filepath.Join(takeovertest.Node(p, nil), theirs)
	data, err := os.ReadFile(filepath.Join(captured, takeovertest.ContainerID+"-net1"))
	if err != nil {
		p.Fatal(err)
	}
	var cache map[string]any
	if err := json.Unmarshal(data, &cache); err != nil {
		p.Fatal(err)
	}
	cache["deviceID"], cache["VFID"] = d.Address.String(), d.VFIndex
	before, _ := cache["OrigVfState"].(map[string]any)
	before["AdminMAC"], before["HostIFName"], before["EffectiveMAC"], before["MTU"] = was.Settings.MAC.String(), was.Netdev.Name, was.Netdev.MAC.String(), was.Netdev.MTU
	if data, err = json.Marshal(cache); err != nil {
		p.Fatal(err)
	}
	p.write(filepath.Join(theirs, p.id+"-net1"), string(data))
	p.write(filepath.Join(theirs, "pci", d.Address.String()), p.path())
	return was
}

func (n *node) write(path, text string) {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = os.Remove(path) })
}

func (n *node) wantAsBefore(d *pci.Device, was state) {
	n.Helper()
	if err := n.leftovers(d, was); err != nil {
		n.Error(err)
	}
	left, err := filepath.Glob(theirs + "/*-net1")
	if more, _ := filepath.Glob(theirs + "/pci/*:*"); err != nil || len(left)+len(more) > 0 {
		n.Errorf("of sriov-cni's is left: %v, %v, %v", left, more, err)
	}
}

// A VF that sriov-cni put into a pod is put back by our DEL, and nobody gets it before.
func TestTakeover(t *testing.T) {
	n := newNode(t)
	d := n.vfs[1]
	t.Run("its pod ends", func(t *testing.T) {
		n.T = t
		p := n.newPod()
		was := p.attachedBySRIOVCNI(d)
		c := p.conf(d, nil)
		delete(c, "deviceID") // sriov-cni knows it from its cache, so runtimes need not say it
		p.call("DEL", c).must(t)
		n.wantAsBefore(d, was)
	})
	t.Run("another pod wants it", func(t *testing.T) {
		n.T = t
		p, next := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		for range 2 { // the second time it is ours already
			_, err := next.call("ADD", next.conf(d, full())).run(t)
			wantCode(t, err, 11, p.id, p.path())
			next.call("DEL", next.conf(d, full())).must(t)
			if live, err := n.host.Read(n.pf(d), d.VFIndex); err != nil || live.VLAN.ID != 100 {
				t.Fatalf("the VF of the pod that has it is touched: %v, %v", live, err)
			}
			n.ip("-n", p.ns, "link", "show", "net1")
		}
		p.kill()
		next.call("ADD", next.conf(d, full())).must(t)
		next.call("DEL", next.conf(d, full())).must(t)
		n.wantAsBefore(d, was)
	})
	t.Run("what it saved cannot be read", func(t *testing.T) {
		n.T = t
		p, next := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		n.write(filepath.Join(theirs, p.id+"-net1"), "{")
		_, err := next.call("ADD", next.conf(d, nil)).run(t)
		wantCode(t, err, 11, p.path(), "sriov-cni")
		next.call("DEL", next.conf(d, nil)).must(t)
		n.ip("-n", p.ns, "link", "show", "net1")
		p.kill()
		next.call("ADD", next.conf(d, nil)).must(t)
		next.call("DEL", next.conf(d, nil)).must(t)
		now := n.state(d)
		was.Netdev.MAC, now.Netdev.MAC = vf.MAC{}, vf.MAC{} // made anew, with another
		was.Settings.MAC, now.Settings.MAC = nil, nil
		was.Netdev.Name, now.Netdev.Name = "", ""
		was.Netdev.AltNames, now.Netdev.AltNames = nil, nil
		if diff := cmp.Diff(was, now); diff != "" {
			t.Errorf("no safe defaults (-want +got):\n%s", diff)
		}
		if kept, err := filepath.Glob(theirs + "/viaduct-corrupt/" + d.Address.String()); err != nil || len(kept) != 1 {
			t.Errorf("not kept aside: %v, %v", kept, err)
		}
	})
}
