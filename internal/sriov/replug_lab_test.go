//go:build lab

package sriov_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// The VF that a record speaks of is gone, and perhaps another one is at its address: the record and the lease go, and the
// new VF stays as somebody has set it.
func TestVFIsAnother(t *testing.T) {
	remake := func(t *testing.T, n *node, d *pci.Device) { n.anew(d, false) }
	replug := func(t *testing.T, n *node, d *pci.Device) {
		removePF(t, d.PF)
		rescan(t, n, d.PF)
		n.anew(d, false)
	}
	tests := map[string]struct {
		meanwhile func(*testing.T, *node, *pci.Device)
		verb      string
	}{
		"numvfs, DEL":       {remake, "DEL"},
		"numvfs, GC":        {remake, "GC"},
		"PF replugged, DEL": {replug, "DEL"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[1]
			p := n.newPod()
			c := p.conf(d, full())
			p.call("ADD", c).must(t)
			tt.meanwhile(t, n, d)
			pf, err := pci.Read("/", d.PF)
			if err != nil {
				t.Fatal(err)
			}
			tag := func(vlan int) {
				n.ip("link", "set", pf.Netdevs[0].Name, "vf", strconv.Itoa(d.VFIndex), "vlan", strconv.Itoa(vlan))
			}
			tag(55)
			before := n.state(d)
			c["cni.dev/valid-attachments"] = []any{}
			p.call(tt.verb, c).must(t)
			if err := n.leftovers(d, before); err != nil {
				t.Errorf("after %s: %v", tt.verb, err)
			}
			// What is set now is the baseline of the next pod.
			next := n.newPod()
			next.call("ADD", next.conf(d, conf{"vlan": 6})).must(t)
			next.call("DEL", next.conf(d, conf{"vlan": 6})).must(t)
			if err := n.leftovers(d, before); err != nil {
				t.Errorf("after the next pod: %v", err)
			}
			tag(0)
			noRecords(t)
		})
	}
}

// A closed record is no baseline for a VF that was made anew meanwhile.
func TestBaselineOfANewVF(t *testing.T) {
	n := newNode(t)
	d := n.vfs[1]
	p := n.newPod()
	p.call("ADD", p.conf(d, full())).must(t)
	p.call("DEL", p.conf(d, full())).must(t)
	n.anew(d, false)
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		t.Fatal(err)
	}
	n.ip("link", "set", pf.Netdevs[0].Name, "vf", strconv.Itoa(d.VFIndex), "vlan", "55")
	before := n.state(d)
	p.call("ADD", p.conf(d, full())).must(t)
	p.call("DEL", p.conf(d, full())).must(t)
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after DEL: %s", diff)
	}
	n.ip("link", "set", pf.Netdevs[0].Name, "vf", strconv.Itoa(d.VFIndex), "vlan", "0")
	noRecords(t)
}

// A record of a VF that is no more goes with DEL or GC, and so does its lock.
func TestVFIsGone(t *testing.T) {
	for _, verb := range []string{"DEL", "GC"} {
		t.Run(verb, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[numVFs-1]
			p := n.newPod()
			c := p.conf(d, full())
			p.call("ADD", c).must(t)
			t.Cleanup(func() { n.anew(d, false) })
			if err := setNumVFs(d.PF, 0); err != nil {
				t.Fatal(err)
			}
			c["cni.dev/valid-attachments"] = []any{}
			p.call(verb, c).must(t)
			if l := leaseFiles(t); len(l) != 0 {
				t.Errorf("leases left: %v", l)
			}
			left, err := filepath.Glob(filepath.Join(records, d.Address.String()+"*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left in the state folder: %v, %v", left, err)
			}
		})
	}
}

func removePF(t *testing.T, pf pci.Address) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/sys/bus/pci/devices", pf.String(), "remove"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// rescan finds a PF again, and sets it up, before its VFs are made.
func rescan(t *testing.T, n *node, address pci.Address) {
	t.Helper()
	if err := os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	name, err := eventually(func() (string, error) {
		pf, err := pci.Read("/", address)
		if err == nil && len(pf.Netdevs) == 0 {
			err = os.ErrNotExist
		}
		if err != nil {
			return "", err
		}
		return pf.Netdevs[0].Name, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n.ip("link", "set", name, "up")
}
