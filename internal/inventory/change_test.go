package inventory

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// largeNode has looked at a tree of many VFs, all of whose interfaces are among the node's links.
func largeNode(t testing.TB, pfs, vfs int) (pcitest.Tree, *Inventory) {
	tree := pcitest.New(t)
	tree.AddLarge(pfs, vfs)
	i := New(tree.Root, slog.New(slog.DiscardHandler), Options{Links: func() (map[int]netlinks.NodeLink, error) {
		links := map[int]netlinks.NodeLink{}
		for index := range pfs * (vfs + 1) {
			links[10+index] = netlinks.NodeLink{Up: true}
		}
		return links, nil
	}})
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
	i.links = func() (map[int]netlinks.NodeLink, error) {
		l := links()
		l[5] = netlinks.NodeLink{Name: "ens2v0", Uplink: "an IPv4 default route goes through it"}
		return l, nil
	}
	i.lookAtLinks()
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
	for index := range 40 {
		links[index] = netlinks.NodeLink{Name: "eth", Up: true}
	}
	inventory := func() *Inventory {
		i := New(tree.Root, slog.New(slog.DiscardHandler), Options{
			Links: func() (map[int]netlinks.NodeLink, error) { return maps.Clone(links), nil },
		})
		i.lookAtAll()
		i.look()
		return i
	}
	follows, scans := inventory(), inventory()
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 300 {
		id := vfs[random.IntN(len(vfs))]
		address, err := pci.ParseAddress(id)
		if err != nil {
			t.Fatal(err)
		}
		what := []string{"igbvf", "vfio-pci", "uio_pci_generic", "", "gone", "links"}[random.IntN(6)]
		switch what {
		case "gone":
			pf := id[:7] + ":00.0"
			tree.RemoveVFs(pf)
			for _, vf := range vfs {
				if vf[:7] == id[:7] {
					tree.AddVF(pf, pcitest.Func{Address: vf, Vendor: "8086", Device: "10ca", Class: "020000", Driver: "igbvf"})
				}
			}
			follows.event(pci.Change{Lost: true})
		case "links":
			links[random.IntN(40)] = netlinks.NodeLink{Name: "eth", Up: random.IntN(2) == 0, Addressed: []string{"", "it has one"}[random.IntN(2)]}
			follows.lookAtLinks()
		default:
			tree.Bind(id, what)
			follows.event(bound(address))
		}
		follows.look()
		scans.lookAtAll()
		scans.look()
		got, _ := follows.Devices()
		want, _ := scans.Devices()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("step %d, %s of %s (-scanned +followed):\n%s", step, what, id, diff)
		}
	}
	if s := follows.Stats(); s.Refreshes < 100 {
		t.Errorf("it scanned: %+v", s)
	}
}

// BenchmarkChange is one VF of 4,096 that gets another driver, from the kernel's event to the devices as they are then. It says
// how many such changes take as long as one scan; see BenchmarkAssignChange of internal/offer for what comes after it.
func BenchmarkChange(b *testing.B) {
	tree, i := largeNode(b, 16, 256)
	scan := cpu(b, func() {
		if _, err := pci.Scan(tree.Root); err != nil {
			b.Fatal(err)
		}
	})
	devices, _ := i.Devices()
	id := devices[200].ID
	address, err := pci.ParseAddress(id)
	if err != nil {
		b.Fatal(err)
	}
	var handled time.Duration
	for b.Loop() {
		b.StopTimer()
		driver := map[string]string{"iavf": "vfio-pci", "vfio-pci": "iavf"}[i.driver(id)]
		tree.Bind(id, driver)
		b.StartTimer()
		handled += cpu(b, func() { i.event(bound(address)); i.look() })
		if i.driver(id) != driver {
			b.Fatal("the change was not seen")
		}
	}
	b.ReportMetric(float64(handled)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(scan), "cpu-ns/scan")
	b.ReportMetric(float64(scan)*float64(b.N)/float64(handled), "changes/scan")
}

// cpu is the processor's time that something takes.
func cpu(b *testing.B, do func()) time.Duration {
	b.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	do()
	return used() - before
}
