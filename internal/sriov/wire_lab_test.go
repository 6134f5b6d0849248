//go:build lab

package sriov_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A whole life in every version of the protocol; a network that names none is of 0.1.0.
func TestLifeInEveryVersion(t *testing.T) {
	const (
		old      = `{"cniVersion":"VERSION","ip4":{"ip":"10.9.0.7/24"},"ip6":{"ip":"fd00:9::7/64"},"dns":{}}`
		tagged   = `"ips":[{"version":"4","interface":0,"address":"10.9.0.7/24"},{"version":"6","interface":0,"address":"fd00:9::7/64"}],"dns":{}}`
		untagged = `"ips":[{"interface":0,"address":"10.9.0.7/24"},{"interface":0,"address":"fd00:9::7/64"}]}`
		iface    = `{"cniVersion":"VERSION","interfaces":[{"name":"net1","mac":"02:00:00:00:00:17","sandbox":"NETNS"}],`
		whole    = `{"cniVersion":"VERSION","interfaces":[{"name":"net1","mac":"02:00:00:00:00:17","mtu":1400,"sandbox":"NETNS","pciID":"VF"}],`
	)
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	for version, want := range map[string]string{
		"": old, "0.1.0": old, "0.2.0": old, "0.3.0": iface + tagged, "0.3.1": iface + tagged, "0.4.0": iface + tagged,
		"1.0.0": whole + untagged, "1.1.0": whole + untagged,
	} {
		p := n.newPod()
		c := p.conf(d, full())
		c["cniVersion"] = version
		if version == "" {
			delete(c, "cniVersion")
			version = "0.1.0"
		}
		out := p.call("ADD", c).must(t)
		want = strings.NewReplacer("VERSION", version, "NETNS", p.path(), "VF", d.Address.String()).Replace(want)
		if diff := cmp.Diff(asMap(t, []byte(want)), asMap(t, out)); diff != "" {
			t.Errorf("result of %s: %s", version, diff)
		}
		if version >= "0.4.0" {
			c["prevResult"] = asMap(t, out)
			p.call("CHECK", c).must(t)
		}
		p.call("DEL", c).must(t)
	}
	// The oldest cannot say that there is an interface without an address, and have it all the same.
	p := n.newPod()
	c := p.conf(d, conf{"vlan": 100})
	delete(c, "cniVersion")
	p.call("ADD", c).must(t)
	n.ip("-n", p.ns, "link", "show", "net1")
	p.call("DEL", c).must(t)
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after all: %s", diff)
	}
}

func asMap(t *testing.T, b []byte) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return m
}

// GC puts back what the runtime does not list, of this network only, under either name of the list.
func TestGC(t *testing.T) {
	n := newNode(t)
	states := map[string]state{}
	networks := []string{"fast", "fast", "other"}
	var pods []*pod
	for i, d := range n.vfs[:3] {
		states[d.Address.String()] = n.state(d)
		p := n.newPod()
		p.call("ADD", p.conf(d, conf{"name": networks[i], "vlan": 10 + i})).must(t)
		pods = append(pods, p)
	}
	gc := func(key string, valid ...*pod) {
		list := []any{}
		for _, p := range valid {
			list = append(list, conf{"containerID": p.id, "ifname": "net1"})
		}
		c := pods[0].conf(n.vfs[0], conf{key: list})
		delete(c, "deviceID")
		pods[0].call("GC", c).must(t)
	}
	attached := func(want ...bool) {
		t.Helper()
		for i, d := range n.vfs[:3] {
			live, err := n.host.Read(n.pf(d), d.VFIndex)
			if err != nil {
				t.Fatal(err)
			}
			if is := live.VLAN.ID == uint16(10+i); is != want[i] {
				t.Errorf("VF %d is attached: %v, want %v (%v)", i, is, want[i], live)
			}
			if !want[i] {
				if diff := cmp.Diff(states[d.Address.String()], n.state(d)); diff != "" {
					t.Errorf("VF %d after GC: %s", i, diff)
				}
			}
		}
	}
	gc("cni.dev/valid-attachments", pods[0], pods[1])
	attached(true, true, true)
	gc("cni.dev/attachments", pods[1])
	attached(false, true, true)
	gc("cni.dev/valid-attachments")
	attached(false, false, true)
	pods[2].call("DEL", pods[2].conf(n.vfs[2], conf{"name": "other"})).must(t)
	attached(false, false, false)
}

// What differs from the record is told, and who asked.
func TestCheckFinds(t *testing.T) {
	n := newNode(t)
	d := n.vfs[1]
	p := n.newPod()
	c := p.conf(d, full())
	result := p.call("ADD", c).must(t)
	defer func() { p.call("DEL", c).must(t) }()
	c["prevResult"] = asMap(t, result)
	pf, err := n.host.Get(n.pf(d).Index)
	if err != nil {
		t.Fatal(err)
	}
	number := fmt.Sprint(d.VFIndex)
	for name, tt := range map[string]struct {
		spoil, mend [][]string
		words       []string
	}{
		"the VLAN": {
			[][]string{{"link", "set", pf.Name, "vf", number, "vlan", "7"}},
			[][]string{{"link", "set", pf.Name, "vf", number, "vlan", "100", "qos", "3"}},
			[]string{"vlan is 7", "should be 100"},
		},
		"trust": {
			[][]string{{"link", "set", pf.Name, "vf", number, "trust", "off"}},
			[][]string{{"link", "set", pf.Name, "vf", number, "trust", "on"}},
			[]string{"trust is off"},
		},
		"an address": {
			[][]string{{"-n", p.ns, "addr", "del", "10.9.0.7/24", "dev", "net1"}},
			[][]string{{"-n", p.ns, "addr", "add", "10.9.0.7/24", "dev", "net1"}},
			[]string{"10.9.0.7/24"},
		},
		"the MTU": {
			[][]string{{"-n", p.ns, "link", "set", "net1", "mtu", "1300"}},
			[][]string{{"-n", p.ns, "link", "set", "net1", "mtu", "1400"}},
			[]string{"MTU 1300", "1400"},
		},
		"the link": {
			[][]string{{"-n", p.ns, "link", "set", "net1", "down"}},
			[][]string{{"-n", p.ns, "link", "set", "net1", "up"}, {"-n", p.ns, "addr", "replace", "fd00:9::7/64", "dev", "net1", "nodad"}},
			[]string{"net1 is down"},
		},
	} {
		for _, args := range tt.spoil {
			n.ip(args...)
		}
		_, found := p.call("CHECK", c).run(t)
		for _, w := range tt.words {
			if !strings.Contains(fmt.Sprint(found), w) {
				t.Errorf("%s: CHECK says %v, and not %q", name, found, w)
			}
		}
		for _, args := range tt.mend {
			n.ip(args...)
		}
		p.call("CHECK", c).must(t)
	}
	other := p.call("CHECK", c)
	other.id = "somebody-else"
	_, err = other.run(t)
	wantCode(t, err, 3)
}

// A VF bound to uio has no interface either.
func TestUIO(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	if out, err := exec.Command("modprobe", "uio_pci_generic").CombinedOutput(); err != nil {
		t.Fatalf("modprobe uio_pci_generic: %v: %s", err, out)
	}
	bind(t, d, "uio_pci_generic")
	t.Cleanup(func() { n.giveToKernel(d) })
	before, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	p := n.newPod()
	c := full()
	delete(c, "mtu")
	result := unmarshal(t, p.call("ADD", p.conf(d, c)).must(t))
	if len(result.Interfaces) != 1 || result.Interfaces[0].PciID != d.Address.String() || len(result.IPs) != 2 {
		t.Errorf("result: %+v", result)
	}
	p.call("CHECK", p.conf(d, c)).must(t)
	p.call("DEL", p.conf(d, c)).must(t)
	after, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after DEL: %s", diff)
	}
}
