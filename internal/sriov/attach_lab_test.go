//go:build lab

package sriov_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// full is everything that igb can set on a VF.
func full() conf {
	return conf{
		"vlan": 100, "vlanQoS": 3, "mac": "02:00:00:00:00:17", "spoofchk": "off", "trust": "on", "max_tx_rate": 100, "mtu": 1400,
		"ipam": conf{"type": "test-ipam", "addresses": []string{"10.9.0.7/24", "fd00:9::7/64"}},
	}
}

func unmarshal(t *testing.T, data []byte) *types100.Result {
	t.Helper()
	r := &types100.Result{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatalf("result %s: %v", data, err)
	}
	return r
}

// The main road: what ADD sets, what it answers, and that DEL leaves nothing of it.
func TestAddDel(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	result := unmarshal(t, p.call("ADD", p.conf(d, full())).must(t))

	if len(result.Interfaces) != 1 || len(result.IPs) != 2 {
		t.Fatalf("result %+v: want one interface and two addresses", result)
	}
	wantIface := &types100.Interface{Name: "net1", Mac: "02:00:00:00:00:17", Mtu: 1400, Sandbox: p.path(), PciID: d.Address.String()}
	if diff := cmp.Diff(wantIface, result.Interfaces[0]); diff != "" {
		t.Errorf("interface in the result: %s", diff)
	}
	live, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	want := before.Settings.With(vf.Settings{
		MAC: &vf.MAC{2, 0, 0, 0, 0, 0x17}, VLAN: &vf.VLAN{ID: 100, QoS: 3, Proto: vf.Proto8021Q},
		SpoofCheck: new(false), Trust: new(true), Rate: &vf.Rate{Max: 100},
	})
	if diff := cmp.Diff(want, live); diff != "" {
		t.Errorf("the PF's entry in use: %s", diff)
	}
	inPod := n.ip("-n", p.ns, "addr", "show", "net1")
	for _, word := range []string{"02:00:00:00:00:17", "mtu 1400", ",UP", "10.9.0.7/24", "fd00:9::7/64"} {
		if !strings.Contains(inPod, word) {
			t.Errorf("in the pod %q is missing in:\n%s", word, inPod)
		}
	}
	// Of ours, that is: the link-local address goes its own way.
	if global := n.ip("-n", p.ns, "addr", "show", "net1", "scope", "global"); strings.Contains(global, "tentative") {
		t.Errorf("an address is still tentative: %s", global)
	}
	check := p.conf(d, full())
	check["prevResult"] = result
	p.call("CHECK", check).must(t)

	p.call("DEL", p.conf(d, full())).must(t)
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after DEL: %s", diff)
	}
	_, err = p.call("CHECK", check).run(t)
	wantCode(t, err, 3)
	p.call("DEL", p.conf(d, full())).must(t)
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after the second DEL: %s", diff)
	}
	if l := leaseFiles(t); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
	if r := openRecords(t); len(r) != 0 {
		t.Errorf("open records left: %v", r)
	}
}

// igb lets an untrusted VF choose its MAC only until the PF's entry has one: the first ADD of a VF has to get that right,
// also when an administrator had set another one before, and DEL has to leave the choice as it was.
func TestMACWithoutTrust(t *testing.T) {
	const wanted = "02:00:00:00:00:18"
	for _, admin := range []string{"", "02:00:00:00:00:99"} {
		t.Run("admin "+admin, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[0]
			if admin != "" {
				pf, err := pci.Read("/", d.PF)
				if err != nil {
					t.Fatal(err)
				}
				set := func(mac string) { n.ip("link", "set", pf.Netdevs[0].Name, "vf", strconv.Itoa(d.VFIndex), "mac", mac) }
				set(admin)
				own := n.state(d).Netdev.MAC.String()
				defer func() {
					set("00:00:00:00:00:00")
					// The kernel does not tell the driver a MAC that the interface has already.
					n.ip("link", "set", n.state(d).Netdev.Name, "address", wanted)
					n.ip("link", "set", n.state(d).Netdev.Name, "address", own)
					noRecords(t)
				}()
			}
			noRecords(t)
			before := n.state(d)
			p := n.newPod()
			result := unmarshal(t, p.call("ADD", p.conf(d, conf{"mac": wanted, "vlan": 100})).must(t))
			if result.Interfaces[0].Mac != wanted {
				t.Errorf("MAC %s in the result, want %s", result.Interfaces[0].Mac, wanted)
			}
			if link := n.ip("-n", p.ns, "link", "show", "net1"); !strings.Contains(link, wanted) || !strings.Contains(link, ",UP") {
				t.Errorf("in the pod: %s, want it up with MAC %s", link, wanted)
			}
			p.call("DEL", p.conf(d, conf{"mac": wanted, "vlan": 100})).must(t)
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after DEL: %s", diff)
			}
			p.call("ADD", p.conf(d, nil)).must(t)
			p.call("DEL", p.conf(d, nil)).must(t)
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after DEL of a network without a MAC: %s", diff)
			}
		})
	}
}

// noRecords makes VFs that no pod had yet: what is set now is their baseline.
func noRecords(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(records); err != nil {
		t.Fatal(err)
	}
}

// Frames pass between two pods on one VLAN.
func TestPodsTalk(t *testing.T) {
	n := newNode(t)
	var talkers []*pod
	for i, d := range n.vfs[:2] {
		p := n.newPod()
		network := conf{"mac": fmt.Sprintf("02:00:00:00:00:2%d", i), "vlan": 100, "ipam": conf{"type": "test-ipam", "addresses": []string{fmt.Sprintf("10.9.0.2%d/24", i)}}}
		p.call("ADD", p.conf(d, network)).must(t)
		defer func() { p.call("DEL", p.conf(d, network)).must(t) }()
		talkers = append(talkers, p)
	}
	for deadline := time.Now().Add(patience); ; {
		out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", talkers[0].ns, "ping", "-c1", "-W1", "10.9.0.21").CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer after %v: %s\n%s\n%s", patience, out, n.ip("-n", talkers[0].ns, "addr"), n.ip("-n", talkers[1].ns, "addr"))
		}
	}
}

// A VF without any settings is moved, named, and taken back; then the record is known, and nothing is read twice.
func TestPlainAddDelTwice(t *testing.T) {
	n := newNode(t)
	d := n.vfs[1]
	before := n.state(d)
	for range 2 {
		p := n.newPod()
		result := unmarshal(t, p.call("ADD", p.conf(d, nil)).must(t))
		if result.Interfaces[0].Mac != before.Netdev.MAC.String() {
			t.Errorf("MAC %s in the result, want the VF's own %v", result.Interfaces[0].Mac, before.Netdev.MAC)
		}
		p.call("DEL", p.conf(d, nil)).must(t)
		if diff := cmp.Diff(before, n.state(d)); diff != "" {
			t.Errorf("after DEL: %s", diff)
		}
	}
}

// Every way for a namespace to be gone.
func TestDelWithoutNetns(t *testing.T) {
	tests := map[string]struct {
		kill bool
		ns   func(p *pod) string
	}{
		"deleted first":                    {true, (*pod).path},
		"deleted first, and an empty path": {true, func(*pod) string { return "" }},
		"alive, and an empty path":         {false, func(*pod) string { return "" }},
		"alive, and a path to nowhere":     {false, func(*pod) string { return "/run/netns/nowhere" }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n, d, before, p := attached(t)
			if tt.kill {
				p.kill()
			}
			del := p.call("DEL", p.conf(d, full()))
			del.ns = tt.ns(p)
			del.must(t)
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after DEL: %s", diff)
			}
			if l := leaseFiles(t); len(l) != 0 {
				t.Errorf("leases left: %v", l)
			}
		})
	}
}

// Settings that the driver refuses: the error names them, and the rest of the batch does not stay.
func TestRefusedSettings(t *testing.T) {
	tests := map[string]struct {
		conf  conf
		code  uint
		words []string
	}{
		"link state":   {conf{"vlan": 9, "trust": "on", "link_state": "enable"}, 2, []string{"link_state enable", "VF 0 of"}},
		"802.1ad":      {conf{"vlan": 9, "vlanProto": "802.1AD"}, 2, []string{"vlan 9", "802.1ad"}},
		"min_tx_rate":  {conf{"vlan": 9, "min_tx_rate": 10}, 7, []string{"rate 10"}},
		"MTU":          {conf{"mtu": 9000}, 7, []string{"mtu"}},
		"IPAM missing": {conf{"vlan": 9, "ipam": conf{"type": "no-such"}}, 7, []string{"no-such"}},
		"IPAM fails":   {conf{"vlan": 9, "ipam": conf{"type": "test-ipam", "fail": "ADD"}}, 999, []string{"told to fail"}},
		"IPAM's address is invalid": {
			conf{"vlan": 9, "ipam": conf{"type": "test-ipam", "addresses": []string{"x"}}}, 6, []string{"invalid CIDR"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[0]
			before := n.state(d)
			p := n.newPod()
			_, err := p.call("ADD", p.conf(d, tt.conf)).run(t)
			wantCode(t, err, tt.code, tt.words...)
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after the refused ADD: %s", diff)
			}
			if r := openRecords(t); len(r) != 0 {
				t.Errorf("open records left: %v", r)
			}
			if l := leaseFiles(t); len(l) != 0 {
				t.Errorf("leases left: %v", l)
			}
		})
	}
}
