//go:build lab

package sriov_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var ipamDir string

// cniPath is a folder with the IPAM plugin: the helper, under its name.
func cniPath() string {
	if ipamDir != "" {
		return ipamDir
	}
	dir := "/run/test-cni"
	self, err := filepath.Abs(*helper)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		if err = os.Symlink(self, filepath.Join(dir, "test-ipam")); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		panic(err)
	}
	ipamDir = dir
	return dir
}

func leaseFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(leases)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// The IPAM plugin of a dead owner fails, here for it is not installed any more: its VF is put back and
// given to the next pod all the same, and the addresses stay on its record until they are released.
func TestOwedAddresses(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	old, next := n.newPod(), n.newPod()
	old.call("ADD", old.conf(d, full())).must(t)
	old.kill()
	ipam := filepath.Join(cniPath(), "test-ipam")
	if err := os.Rename(ipam, ipam+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(ipam+".away", ipam) })
	gc := old.call("GC", old.conf(d, conf{"cni.dev/valid-attachments": []any{}}))
	for _, verb := range []string{"GC", "ADD", "DEL", "GC"} {
		if verb == "GC" {
			_, err := gc.run(t)
			wantCode(t, err, 11, "test-ipam", "vfctl restore --force "+d.Address.String())
		} else {
			next.call(verb, next.conf(d, nil)).must(t)
		}
		if verb != "ADD" {
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after %s: %s", verb, diff)
			}
		}
		if leased, owed := len(leaseFiles(t)), len(owing(t)); leased != 1 || owed != 1 {
			t.Errorf("after %s: %d leases and %d records that owe one, want one each", verb, leased, owed)
		}
	}
	if err := os.Rename(ipam+".away", ipam); err != nil {
		t.Fatal(err)
	}
	next.call("ADD", next.conf(d, nil)).must(t)
	next.call("DEL", next.conf(d, nil)).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

// A definition whose ipam section was changed or taken out while a pod ran: the pod's address is given back all the same.
func TestChangedIPAM(t *testing.T) {
	for name, change := range map[string]conf{
		"taken out":      {"ipam": nil},
		"another plugin": {"ipam": conf{"type": "not-installed"}},
	} {
		t.Run(name, func(t *testing.T) {
			n, d, before, p := attached(t)
			if n := len(leaseFiles(t)); n != 1 {
				t.Fatalf("%d leases", n)
			}
			_, err := p.call("DEL", p.conf(d, change)).run(t)
			if name == "taken out" && err != nil {
				t.Error(err)
			}
			if left := leaseFiles(t); len(left) != 0 {
				t.Errorf("leases: %v", left)
			}
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Error(diff)
			}
			p.call("DEL", p.conf(d, full())).must(t)
			if err := n.leftovers(d, before); err != nil {
				t.Error(err)
			}
		})
	}
}

// What an IPAM plugin gives is in the pod, and its neighbours know at once who has the addresses now: until then they would
// send to the pod that had them before.
func TestAddressesAndNeighbours(t *testing.T) {
	n := newNode(t)
	neighbour, p := n.newPod(), n.newPod()
	give := func(gateways []string, routes []conf, addresses ...string) conf {
		return conf{"ipam": conf{"type": "test-ipam", "addresses": addresses, "gateways": gateways, "routes": routes}}
	}
	first := neighbour.conf(n.vfs[0], give(nil, []conf{}, "10.9.0.1/24", "fd00:9::1/64"))
	neighbour.call("ADD", first).must(t)
	old := []string{"10.9.0.7", "fd00:9::7"}
	for _, address := range old {
		n.ip("-n", neighbour.ns, "neigh", "add", address, "lladdr", "02:00:00:00:00:99", "dev", "net1", "nud", "stale")
	}
	second := p.conf(n.vfs[1], give([]string{"10.9.0.1", "fd00:9::1"}, []conf{
		{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.20.0.0/16", "gw": "10.9.0.2"},
	}, "10.9.0.7/24", "fd00:9::7/64"))
	result := unmarshal(t, p.call("ADD", second).must(t))

	routes := n.ip("-n", p.ns, "route") + n.ip("-n", p.ns, "-6", "route")
	for _, want := range []string{
		"default via 10.9.0.1 dev net1", "default via fd00:9::1 dev net1", "10.20.0.0/16 via 10.9.0.2 dev net1",
	} {
		if !strings.Contains(routes, want) {
			t.Errorf("%q is missing among the pod's routes:\n%s", want, routes)
		}
	}
	_, err := eventually(func() (string, error) {
		known := n.ip("-n", neighbour.ns, "neigh", "show", "dev", "net1")
		for _, address := range old {
			if !strings.Contains(known, address+" lladdr "+result.Interfaces[0].Mac) {
				return "", fmt.Errorf("%s has MAC %s now, the neighbour knows:\n%s", address, result.Interfaces[0].Mac, known)
			}
		}
		return known, nil
	})
	if err != nil {
		t.Error(err)
	}
	second["prevResult"] = result
	p.call("CHECK", second).must(t)
	n.ip("-n", p.ns, "route", "del", "10.20.0.0/16")
	_, err = p.call("CHECK", second).run(t)
	wantCode(t, err, 999, "10.20.0.0/16")
	delete(second, "prevResult")
	p.call("DEL", second).must(t)
	neighbour.call("DEL", first).must(t)
	if left := leaseFiles(t); len(left) > 0 {
		t.Errorf("leases left: %v", left)
	}
}
