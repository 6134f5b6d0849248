package inventory

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func (i *Inventory) reserved(t *testing.T, id string) bool {
	t.Helper()
	devices, _ := i.Devices()
	k := slices.IndexFunc(devices, func(d *Device) bool { return d.ID == id })
	if k < 0 {
		t.Fatalf("%s is not there", id)
	}
	return devices[k].Reserved != ""
}

// Each case makes something be said of a device for a time, on a node where nothing else happens then.
func TestIdleNodeKeepsItsDeadlines(t *testing.T) {
	const pf, nic = "0000:02:00.0", "0000:03:00.0"
	tests := map[string]struct {
		id     string
		happen func(i *Inventory, tree pcitest.Tree, known map[int]netlinks.NodeLink)
		due    time.Duration
	}{
		"the VFs of a PF go": {pf, func(i *Inventory, tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
			tree.RemoveVFs(pf)
			i.lookAtAll()
		}, whole},
		"another interface takes over": {nic, func(i *Inventory, _ pcitest.Tree, known map[int]netlinks.NodeLink) {
			known[10], known[1] = netlinks.NodeLink{Name: "ens3"}, netlinks.NodeLink{Name: "bond0", Uplink: "a route"}
			i.wake()
		}, takeover},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tree := pcitest.New(t)
				tree.AddIGB("02", "ens2", 4, 2)
				tree.AddIGB("03", "ens3", 10, 0)
				known := links()
				known[10] = netlinks.NodeLink{Name: "ens3", Uplink: "a route"}
				i := looked(tree)
				i.links.(*fakeLinks).read = func() map[int]netlinks.NodeLink { return maps.Clone(known) }
				next := func() bool {
					select {
					case <-i.pending.wake:
						i.look()
						return true
					case <-time.After(time.Hour):
						return false
					}
				}
				i.lookAtAll()
				next()
				test.happen(i, tree, known)
				next()
				if !i.reserved(t, test.id) {
					t.Fatal("it is offered at once")
				}
				if n := len(i.viewer.restless); n != 1 {
					t.Errorf("%d functions are described anew at each look", n)
				}
				before, started := i.Stats(), time.Now()
				tree.Remove("sys") // a look that reads anything would find nothing
				for i.reserved(t, test.id) {
					if !next() {
						t.Fatal("nobody looks any more, and it is still not offered")
					}
				}
				if took := time.Since(started); took < test.due || took > test.due+recheck {
					t.Errorf("it is offered after %s, want %s", took, test.due)
				}
				if after := i.Stats(); after.Scans != before.Scans || after.Refreshes != before.Refreshes {
					t.Errorf("before %+v, after %+v", before, after)
				}
				if next() {
					t.Error("there is nothing to wait for, but somebody looks")
				}
			})
		})
	}
}

// The kernel takes a VF's links to its PF and back, unbinds its driver, and only then says that it removes the VF. A look in
// between knows of no PF to look at then.
func TestLastVFGoesDuringALook(t *testing.T) {
	const pf = "0000:02:00.0"
	tests := map[string]func(tree pcitest.Tree){
		"it is no VF any more":         func(tree pcitest.Tree) { tree.Remove(tree.Dir(vf) + "/physfn") },
		"its PF does not know it":      func(pcitest.Tree) {},
		"it is not on the bus already": func(tree pcitest.Tree) { tree.Remove("sys/bus/pci/devices/" + vf) },
	}
	for name, then := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 1)
			i := looked(tree)
			address, err := pci.ParseAddress(vf)
			if err != nil {
				t.Fatal(err)
			}
			tree.Remove(tree.Dir(pf) + "/virtfn0")
			then(tree)
			tree.Bind(vf, "")
			i.event(pci.Change{Action: "unbind", Subsystem: "pci", Address: address})
			i.look()
			tree.RemoveVFs(pf)
			tree.Remove("sys/bus/pci/devices/" + vf)
			tree.Remove(tree.Dir(vf))
			i.event(pci.Change{Action: "remove", Subsystem: "pci", Address: address})
			i.look()
			if d := i.snapshot().Devices(); len(d) != 1 || len(d[0].VFs) != 0 {
				t.Errorf("%d functions, the first with VFs %v", len(d), d[0].VFs)
			}
		})
	}
}

// A partition key that is set when the driver is long bound has no event, but the interface changes with it.
func TestPartitionKeyComesLate(t *testing.T) {
	const hca = "0000:02:00.0"
	tree := pcitest.New(t)
	tree.Add(pcitest.Func{
		Address: hca, Vendor: "15b3", Device: "101b", Class: "020700", Driver: "mlx5_core",
		Net: []pcitest.Net{{Name: "ib0", Index: 4, Type: 32}},
	})
	key := tree.Dir(hca) + "/infiniband/mlx5_0/ports/1/pkeys/0"
	tree.Write(key, "0x0000")
	i := looked(tree)
	tree.Write(key, "0x8001")
	i.links.(*fakeLinks).read = func() map[int]netlinks.NodeLink {
		l := links()
		l[4] = netlinks.NodeLink{Name: "ib0"}
		return l
	}
	i.look() // which hears of the interface
	select {
	case <-i.pending.wake:
		i.look()
	default:
	}
	devices, _ := i.Devices()
	if got := devices[0].PKey; got != "0x8001" {
		t.Errorf("the key is %q", got)
	}
	select {
	case <-i.pending.wake:
		t.Error("it looks again and again")
	default:
	}
}
