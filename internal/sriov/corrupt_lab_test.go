//go:build lab

package sriov_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A record that cannot be read is kept aside, and the VF gets safe defaults. record_test.go has every length.
func TestCorruptRecord(t *testing.T) {
	tests := map[string]struct {
		length int64
		dies   bool
	}{
		"empty":               {0, false},
		"cut":                 {40, false},
		"cut, the netns dies": {40, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n, d, before, p := attached(t)
			if err := os.Truncate(recordPath(d), tt.length); err != nil {
				t.Fatal(err)
			}
			if tt.dies {
				p.kill()
			}
			p.call("DEL", p.conf(d, full())).must(t)
			wantAside(t, d)
			n.giveBack(d, before)
		})
	}
}

// A VF of which nothing can be read, and which the node itself has put to use since: neither DEL nor ADD takes it away.
func TestCorruptRecordOfAVFInUse(t *testing.T) {
	n, d, before, p := attached(t)
	p.call("DEL", p.conf(d, full())).must(t)
	if err := os.Truncate(recordPath(d), 40); err != nil {
		t.Fatal(err)
	}
	n.ip("link", "set", before.Netdev.Name, "up")
	n.ip("addr", "add", "192.0.2.7/24", "dev", before.Netdev.Name)
	used := n.state(d)
	p.call("DEL", p.conf(d, full())).must(t)
	_, err := p.call("ADD", p.conf(d, full())).run(t)
	wantCode(t, err, 7, before.Netdev.Name, "192.0.2.7")
	if diff := cmp.Diff(used, n.state(d)); diff != "" {
		t.Errorf("it was touched: %s", diff)
	}
	n.ip("addr", "flush", "dev", before.Netdev.Name)
	n.ip("link", "set", before.Netdev.Name, "down")
	_, _ = p.call("ADD", p.conf(d, full())).run(t)
	p.call("DEL", p.conf(d, full())).must(t)
	wantAside(t, d)
	n.giveBack(d, before)
}

// giveBack sets what was known only to the record: the VF's MAC, and its name.
func (n *node) giveBack(d *pci.Device, before state) {
	n.Helper()
	dev, err := n.host.Find(d.Address.String())
	if err != nil {
		n.Fatal(err)
	}
	n.ip("link", "set", dev.Name, "address", before.Netdev.MAC.String(), "name", before.Netdev.Name)
	if err := n.leftovers(d, before); err != nil {
		n.Error(err)
	}
}

func wantAside(t *testing.T, d *pci.Device) {
	t.Helper()
	aside, err := filepath.Glob(filepath.Join(records, d.Address.String()+".corrupt-*"))
	if err != nil || len(aside) == 0 {
		t.Errorf("no record was kept aside: %v", err)
	}
	for _, path := range aside {
		_ = os.Remove(path)
	}
}

// Whose a VF is that has a corrupt record cannot be told: it is not touched while it is in another pod.
func TestCorruptRecordOfAnotherPod(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	old, young, third := n.newPod(), n.newPod(), n.newPod()
	old.kill()
	young.call("ADD", young.conf(d, full())).must(t)
	inUse := n.inUse(d)
	if err := os.Truncate(recordPath(d), 40); err != nil {
		t.Fatal(err)
	}
	old.call("DEL", old.conf(d, full())).must(t) // late
	_, err := third.call("ADD", third.conf(d, full())).run(t)
	wantCode(t, err, 11, young.path())
	if diff := cmp.Diff(inUse, n.inUse(d)); diff != "" {
		t.Errorf("the PF's entry in use: %s", diff)
	}
	n.ip("-n", young.ns, "link", "show", "net1")

	young.call("DEL", young.conf(d, full())).must(t)
	wantAside(t, d)
	n.giveBack(d, before)
}

func (n *node) inUse(d *pci.Device) vf.Settings {
	n.Helper()
	s, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		n.Fatal(err)
	}
	return s
}

// Nobody can see who uses a VF that has no interface: with a corrupt record only its next ADD resets it.
func TestCorruptRecordWithVFIO(t *testing.T) {
	n := newNode(t)
	d := n.vfs[2]
	n.giveToVFIO(d)
	before := n.state(d)
	p, next := n.newPod(), n.newPod()
	c := conf{"vlan": 100, "trust": "on"}
	p.call("ADD", p.conf(d, c)).must(t)
	inUse := n.inUse(d)
	if err := os.Truncate(recordPath(d), 40); err != nil {
		t.Fatal(err)
	}
	p.call("DEL", p.conf(d, c)).must(t)
	if diff := cmp.Diff(inUse, n.inUse(d)); diff != "" {
		t.Errorf("a DEL that may be anybody's touched the VF: %s", diff)
	}
	next.call("ADD", next.conf(d, nil)).must(t)
	wantAside(t, d)
	// igb showed the MAC that the VF had before vfio-pci; by default it has none.
	before.Settings.MAC = n.inUse(d).MAC
	if diff := cmp.Diff(before.Settings, n.inUse(d)); diff != "" {
		t.Errorf("the next pod inherits: %s", diff)
	}
	next.call("DEL", next.conf(d, nil)).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

// A record of another version of this program is refused, not guessed; an operator can give the VF up for lost.
func TestRecordOfAnotherVersion(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p, next := n.newPod(), n.newPod()
	p.call("ADD", p.conf(d, full())).must(t)
	inUse := n.inUse(d)
	b, err := os.ReadFile(recordPath(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordPath(d), bytes.Replace(b, []byte(`"version":1`), []byte(`"version":99`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, call := range []invocation{p.call("DEL", p.conf(d, full())), next.call("ADD", next.conf(d, nil)), p.call("CHECK", p.conf(d, full()))} {
		_, err := call.run(t)
		wantCode(t, err, 5, "99", "vfctl restore --force "+d.Address.String())
	}
	if l := leaseFiles(t); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
	if diff := cmp.Diff(inUse, n.inUse(d)); diff != "" {
		t.Errorf("the VF was touched: %s", diff)
	}
	plugin, log := inProcess()
	if _, err := plugin.Restore(t.Context(), d.Address, false); err == nil {
		t.Error("restored without force")
	}
	if _, err := plugin.Restore(t.Context(), d.Address, true); err != nil {
		t.Fatal(fmt.Errorf("%w\n%s", err, log))
	}
	wantAside(t, d)
	n.giveBack(d, before)
}
