package inventory

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// largeNode has looked at a tree of many VFs, all of whose interfaces are among the node's links.
func largeNode(t testing.TB, pfs, vfs int) (pcitest.Tree, *Inventory) {
	tree := pcitest.New(t)
	tree.AddLarge(pfs, vfs)
	all := map[int]netlinks.NodeLink{}
	for index := range pfs * (vfs + 1) {
		all[10+index] = netlinks.NodeLink{Up: true}
	}
	i := New(tree.Root, slog.New(slog.DiscardHandler), Options{Links: &fakeLinks{read: func() map[int]netlinks.NodeLink { return all }}})
	i.lookAtAll()
	i.look()
	return tree, i
}

func bound(a pci.Address) pci.Change {
	return pci.Change{Action: "bind", Subsystem: "pci", Address: a}
}

// Of a VF that changes its driver, nothing but that VF is read, and every other device is the one that it was.
func TestOneChangeLeavesTheOthersAlone(t *testing.T) {
	tree, i := largeNode(t, 2, 32)
	before, _ := i.Devices()
	changed := before[40].ID
	for _, d := range before {
		if d.ID != changed && d.ID != before[40].PF { // whose link tells the VF's index
			tree.Remove(tree.Dir(d.ID)) // a read would find nothing
		}
	}
	tree.Bind(changed, "vfio-pci")
	address, err := pci.ParseAddress(changed)
	if err != nil {
		t.Fatal(err)
	}
	i.event(bound(address))
	i.look()
	after, _ := i.Devices()
	if len(after) != len(before) {
		t.Fatalf("%d devices, before %d", len(after), len(before))
	}
	for n, d := range after {
		switch {
		case d.ID == changed && (d == before[n] || d.Driver != "vfio-pci"):
			t.Errorf("%s has driver %s", d.ID, d.Driver)
		case d.ID != changed && d != before[n]:
			t.Errorf("%s was described anew: %+v", d.ID, d)
		}
	}
}

// A change of links may mean something to every device, but those to which it does not are the same as before.
func TestLinksChange(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	i := looked(tree)
	before, _ := i.Devices()
	i.links.(*fakeLinks).read = func() map[int]netlinks.NodeLink {
		l := links()
		l[5] = netlinks.NodeLink{Name: "ens2v0", Uplink: "an IPv4 default route goes through it"}
		return l
	}
	i.look()
	after, _ := i.Devices()
	for n, d := range after {
		if same := d == before[n]; same == (d.ID == vf) || (d.Reserved == "") != (n == 2) {
			t.Errorf("%s: the same %v, reserved %q", d.ID, same, d.Reserved)
		}
	}
}

// Following changes one by one comes to what looking at everything each time does.
func TestChangesOneByOne(t *testing.T) {
	tree := pcitest.New(t)
	vfs := append(tree.AddIGB("02", "ens2", 10, 4), tree.AddIGB("03", "ens3", 20, 4)...)
	links := map[int]netlinks.NodeLink{}
	// netdevs are the interfaces by function, but those in pods.
	netdevs, made := map[string]pcitest.Net{}, 0
	appear := func(id string) {
		made++
		n := pcitest.Net{Name: fmt.Sprintf("eth%d", made), Index: 100 + made}
		tree.AddNet(id, n)
		netdevs[id], links[n.Index] = n, netlinks.NodeLink{Name: n.Name, Up: true}
	}
	vanish := func(id string) {
		n := netdevs[id]
		tree.RemoveNet(id, n.Name)
		delete(links, n.Index)
		delete(netdevs, id)
	}
	devices := append([]string{"0000:02:00.0", "0000:03:00.0"}, vfs...)
	for n, id := range devices {
		name := []string{"ens2", "ens3"}[n%2]
		if n >= 2 {
			name = fmt.Sprintf("ens%sv%d", id[6:7], (n-2)%4)
		}
		tree.RemoveNet(id, name)
		appear(id)
	}
	inventory := func() *Inventory {
		i := New(tree.Root, slog.New(slog.DiscardHandler), Options{
			Links: &fakeLinks{read: func() map[int]netlinks.NodeLink { return maps.Clone(links) }},
		})
		i.lookAtAll()
		i.look()
		return i
	}
	follows, scans, now := inventory(), inventory(), time.Now()
	for _, i := range []*Inventory{follows, scans} {
		i.viewer.now = func() time.Time { return now }
	}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 600 {
		id := devices[random.IntN(len(devices))]
		address, err := pci.ParseAddress(id)
		if err != nil {
			t.Fatal(err)
		}
		_, here := netdevs[id]
		isVF := id[7:10] != ":00"
		what := []string{"igbvf", "vfio-pci", "uio_pci_generic", "", "remade", "name", "pod", "pod", "link", "other link"}[random.IntN(10)]
		switch {
		case what == "remade":
			pf := id[:7] + ":00.0"
			tree.RemoveVFs(pf)
			for _, vf := range vfs {
				if vf[:7] != id[:7] {
					continue
				}
				delete(links, netdevs[vf].Index)
				delete(netdevs, vf)
				tree.AddVF(pf, pcitest.Func{Address: vf, Vendor: "8086", Device: "10ca", Class: "020000", Driver: "igbvf"})
			}
			follows.event(pci.Change{Lost: true})
		case what == "name" && here:
			vanish(id)
			appear(id)
			follows.event(pci.Change{Action: "move", Subsystem: "net", Address: address})
		case what == "pod" && here:
			vanish(id)
			follows.event(pci.Change{Action: "remove", Subsystem: "net", Address: address})
		case what == "pod":
			appear(id)
			follows.event(pci.Change{Action: "add", Subsystem: "net", Address: address})
		case what == "link" && here:
			l := links[netdevs[id].Index]
			l.Up, l.Addressed, l.Uplink = random.IntN(2) == 0, []string{"", "it has one"}[random.IntN(2)], []string{"", "", "a route"}[random.IntN(3)]
			links[netdevs[id].Index] = l
		case what == "other link":
			links[1] = netlinks.NodeLink{Name: "wlan0", Uplink: []string{"", "a route"}[random.IntN(2)]}
		case isVF:
			tree.Bind(id, what)
			follows.event(bound(address))
		}
		now = now.Add(time.Duration(random.IntN(180)) * time.Second) // what is said for a time only ends
		follows.look()
		scans.viewer.shown, scans.viewer.believed, scans.viewer.dropped = viewed{}, nil, true // everything is described anew
		scans.lookAtAll()
		scans.look()
		got, _ := follows.Devices()
		want, _ := scans.Devices()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("step %d, %s of %s (-scanned +followed):\n%s", step, what, id, diff)
		}
	}
	if s := follows.Stats(); s.Refreshes < 200 {
		t.Errorf("it scanned: %+v", s)
	}
}
