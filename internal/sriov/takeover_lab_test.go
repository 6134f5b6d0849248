//go:build lab

package sriov_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

const theirs = "/var/lib/cni/sriov"

// attachedBySRIOVCNI puts the VF into the pod as sriov-cni does, and leaves what that leaves.
func (p *pod) attachedBySRIOVCNI(d *pci.Device) (was state) {
	p.Helper()
	was = p.state(d)
	p.ip("link", "set", p.uplink(d), "vf", strconv.Itoa(d.VFIndex), "vlan", "100", "trust", "on", "spoofchk", "off", "mac", "02:00:00:00:01:00")
	p.ip("link", "set", was.Netdev.Name, "netns", p.ns, "name", "net1")
	p.ip("-n", p.ns, "link", "set", "net1", "address", "02:00:00:00:01:00", "mtu", "1400", "promisc", "on", "up")
	p.savedBySRIOVCNI(d, was)
	return was
}

// savedBySRIOVCNI leaves what sriov-cni leaves of a VF of this pod, which was so before, as it was captured.
func (p *pod) savedBySRIOVCNI(d *pci.Device, was state) {
	p.Helper()
	p.id = strings.ReplaceAll(p.id, "-", "") // as runtimes make them: its files are named by id, a dash, and the interface
	data, err := os.ReadFile(filepath.Join(takeovertest.Node(p, nil), theirs, takeovertest.ContainerID+"-net1"))
	if err != nil {
		p.Fatal(err)
	}
	p.write(filepath.Join(theirs, p.id+"-net1"), was.savedAs(p.T, d, string(data)))
	p.write(filepath.Join(theirs, "pci", d.Address.String()), p.path())
}

// savedAs is a file of sriov-cni for a VF that was so before; captured is the one that was captured.
func (s state) savedAs(t *testing.T, d *pci.Device, captured string) string {
	t.Helper()
	var cache map[string]any
	if err := json.Unmarshal([]byte(captured), &cache); err != nil {
		t.Fatal(err)
	}
	cache["deviceID"], cache["VFID"] = d.Address.String(), d.VFIndex
	before, _ := cache["OrigVfState"].(map[string]any)
	before["AdminMAC"], before["HostIFName"], before["EffectiveMAC"], before["MTU"] = s.Settings.MAC.String(), s.Netdev.Name, s.Netdev.MAC.String(), s.Netdev.MTU
	data, err := json.Marshal(cache)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (n *node) uplink(d *pci.Device) string {
	n.Helper()
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		n.Fatal(err)
	}
	uplink, _ := pf.Uplink()
	return uplink.Name
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

// leased is a network with addresses, of which the pod has got some from the IPAM plugin when sriov-cni asked for them.
func (p *pod) leased(d *pci.Device) conf {
	p.Helper()
	p.write(filepath.Join(leases, p.id+"-net1"), "")
	return p.conf(d, conf{"ipam": conf{"type": "test-ipam", "addresses": []string{"10.9.0.7/24"}}})
}

// cachedByLibcni leaves what libcni keeps of the pod's ADD, below Multus' folder.
func (p *pod) cachedByLibcni(c conf) {
	p.Helper()
	config, err1 := json.Marshal(c)
	data, err2 := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": p.id, "ifName": "net1", "networkName": "sriov-net", "netns": p.path(), "config": config,
	})
	if err := errors.Join(err1, err2); err != nil {
		p.Fatal(err)
	}
	p.write(filepath.Join(filepath.Dir(theirs), "multus/results", "sriov-net-"+p.id+"-net1"), string(data))
}

// A VF that sriov-cni put into a pod is put back by our DEL, and nobody gets it before.
func TestTakeover(t *testing.T) {
	n := newNode(t)
	d := n.vfs[1]
	t.Run("its pod ends", func(t *testing.T) {
		n.T = t
		p := n.newPod()
		was := p.attachedBySRIOVCNI(d)
		c := p.leased(d)
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
	t.Run("its pod is gone without a DEL", func(t *testing.T) {
		n.T = t
		p, next := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		p.cachedByLibcni(p.leased(d))
		p.kill()
		next.call("ADD", next.conf(d, nil)).must(t)
		if l := leaseFiles(t); len(l) > 0 {
			t.Errorf("the dead pod's addresses are still taken: %v", l)
		}
		next.call("DEL", next.conf(d, nil)).must(t)
		n.wantAsBefore(d, was)
	})
	t.Run("an operator restores it", func(t *testing.T) {
		n.T = t
		p := n.newPod()
		was := p.attachedBySRIOVCNI(d)
		if err := os.Remove(recordPath(d)); err != nil { // of the subtests before: nobody of ours has had this VF
			t.Fatal(err)
		}
		plugin, log := inProcess()
		if _, err := plugin.Restore(t.Context(), d.Address, false); !errors.Is(err, sriov.ErrLiving) {
			t.Errorf("while its pod lives: %v", err)
		}
		p.kill()
		if outcome, err := plugin.Restore(t.Context(), d.Address, false); outcome != sriov.PutBack || err != nil {
			t.Errorf("it %s: %v\n%s", outcome, err, log)
		}
		n.wantAsBefore(d, was)
	})
	// A process id is given out again: its namespace is by now the host's own.
	t.Run("its pod is gone and its path leads elsewhere", func(t *testing.T) {
		n.T = t
		p, next := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		n.write(filepath.Join(theirs, "pci", d.Address.String()), "/proc/1/ns/net")
		p.kill()
		next.call("ADD", next.conf(d, nil)).must(t)
		next.call("DEL", next.conf(d, nil)).must(t)
		n.wantAsBefore(d, was)
	})
	// Or another pod's, while its own lives. The DEL of the VF's pod finds it all the same, by where it is.
	t.Run("its path leads to another pod", func(t *testing.T) {
		n.T = t
		p, other := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		n.write(filepath.Join(theirs, "pci", d.Address.String()), other.path())
		_, err := other.call("ADD", other.conf(d, nil)).run(t)
		wantCode(t, err, 11, p.id, p.path())
		other.call("DEL", other.conf(d, nil)).must(t)
		p.call("DEL", p.conf(d, nil)).must(t)
		n.wantAsBefore(d, was)
	})
	// As versions before 2.7 do, and one that is killed before it comes to it.
	t.Run("it has not saved where the VF is", func(t *testing.T) {
		n.T = t
		p, next := n.newPod(), n.newPod()
		was := p.attachedBySRIOVCNI(d)
		if err := os.Remove(filepath.Join(theirs, "pci", d.Address.String())); err != nil {
			t.Fatal(err)
		}
		_, err := next.call("ADD", next.conf(d, nil)).run(t)
		wantCode(t, err, 11, p.id)
		next.call("DEL", next.conf(d, nil)).must(t)
		n.ip("-n", p.ns, "link", "show", "net1")
		p.call("DEL", p.leased(d)).must(t)
		n.wantAsBefore(d, was)
	})
	// Its pod lost the VF, and the node has it for itself. It is put back when the node does not use it any more.
	t.Run("the node uses the VF", func(t *testing.T) {
		n.T = t
		p, next, was := n.newPod(), n.newPod(), n.state(d)
		p.savedBySRIOVCNI(d, was)
		name := was.Netdev.Name
		n.ip("link", "set", n.uplink(d), "vf", strconv.Itoa(d.VFIndex), "vlan", "100")
		n.ip("link", "set", name, "mtu", "1400", "up")
		n.ip("addr", "add", "192.0.2.77/24", "dev", name)
		uses := n.state(d)
		p.call("DEL", p.conf(d, nil)).must(t)
		_, err := next.call("ADD", next.conf(d, nil)).run(t)
		wantCode(t, err, 7, "in use by the node itself")
		next.call("DEL", next.conf(d, nil)).must(t)
		if diff := cmp.Diff(uses, n.state(d)); diff != "" {
			t.Errorf("the node's own VF is touched (-before +now):\n%s", diff)
		}
		n.ip("addr", "flush", "dev", name)
		n.ip("link", "set", name, "down")
		next.call("ADD", next.conf(d, nil)).must(t)
		next.call("DEL", next.conf(d, nil)).must(t)
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

// Nobody can see who uses a VF without an interface: while the namespace is there that sriov-cni says has it, it is not given to
// another pod, whatever else of what was saved cannot be read.
func TestTakeoverWithVFIO(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	n.giveToVFIO(d)
	before := n.state(d)
	for _, name := range []string{"as captured", "unreadable"} {
		t.Run(name, func(t *testing.T) {
			n.T = t
			owners, want := "{", before
			p, next := n.newPod(), n.newPod()
			p.id = strings.ReplaceAll(p.id, "-", "")
			if name == "as captured" {
				data, err := os.ReadFile(filepath.Join(takeovertest.Node(t, nil), theirs, takeovertest.ContainerID+"-net1"))
				if err != nil {
					t.Fatal(err)
				}
				owners = before.savedAs(t, d, string(data)) // its interface has no name: it had none
			} else {
				want.Settings.MAC = &vf.MAC{} // safe defaults: it may choose
			}
			n.write(filepath.Join(theirs, p.id+"-net1"), owners)
			n.write(filepath.Join(theirs, "pci", d.Address.String()), p.path())
			uplink := n.uplink(d)
			n.ip("link", "set", uplink, "vf", strconv.Itoa(d.VFIndex), "vlan", "100", "trust", "on")
			inUse := n.inUse(d)
			_, err := next.call("ADD", next.conf(d, nil)).run(t)
			wantCode(t, err, 11, p.path())
			next.call("DEL", next.conf(d, nil)).must(t)
			if diff := cmp.Diff(inUse, n.inUse(d)); diff != "" {
				t.Errorf("the VF of the pod that has it is touched: %s", diff)
			}
			p.kill()
			next.call("ADD", next.conf(d, nil)).must(t)
			next.call("DEL", next.conf(d, nil)).must(t)
			if err := n.leftovers(d, want); err != nil {
				t.Error(err)
			}
		})
	}
}

// A VF whose interface sriov-cni saved, and that somebody has given to vfio-pci since its pod died, keeps that driver, and is
// the next pod's.
func TestTakeoverLeavesTheDriver(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	n.giveToVFIO(d)
	before := n.state(d)
	data, err := os.ReadFile(filepath.Join(takeovertest.Node(t, nil), theirs, takeovertest.ContainerID+"-net1"))
	if err != nil {
		t.Fatal(err)
	}
	p, next := n.newPod(), n.newPod()
	p.id = strings.ReplaceAll(p.id, "-", "")
	saved := strings.Replace(before.savedAs(t, d, string(data)), `"HostIFName":""`, `"HostIFName":"eth8"`, 1)
	if !strings.Contains(saved, `"HostIFName":"eth8"`) {
		t.Fatalf("no interface is saved: %s", saved)
	}
	n.write(filepath.Join(theirs, p.id+"-net1"), saved)
	n.write(filepath.Join(theirs, "pci", d.Address.String()), p.path())
	p.kill()
	next.call("ADD", next.conf(d, nil)).must(t)
	next.call("DEL", next.conf(d, nil)).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}
