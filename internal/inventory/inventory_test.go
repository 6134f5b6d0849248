package inventory

import (
	"context"
	"log/slog"
	"reflect"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// A fakeLinks reads links anew at each look, and says which changed and no more.
type fakeLinks struct {
	read func() map[int]netlinks.NodeLink
	last map[int]netlinks.NodeLink
}

func (*fakeLinks) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

func (f *fakeLinks) Update(bool) (links map[int]netlinks.NodeLink, changed []int, err error) {
	before := f.last
	f.last = f.read()
	for index, now := range f.last {
		if was, ok := before[index]; !ok || !reflect.DeepEqual(was, now) {
			changed = append(changed, index)
		}
	}
	for index := range before {
		if _, ok := f.last[index]; !ok {
			changed = append(changed, index)
		}
	}
	return f.last, changed, nil
}

// Events are followed by hand here: i.event is what the watch calls, i.look what Run calls a little later.
func looked(tree pcitest.Tree) *Inventory {
	i := New(tree.Root, slog.New(slog.DiscardHandler), Options{
		Links: &fakeLinks{read: links},
	})
	i.lookAtAll()
	i.look()
	return i
}

func (i *Inventory) driver(id string) string {
	devices, _ := i.Devices()
	for _, d := range devices {
		if d.ID == id {
			return d.Driver
		}
	}
	return "not there"
}

// Each case is told of some events after both VFs got another driver. told is whose change is seen then, for how many
// scans and refreshes.
func TestEvents(t *testing.T) {
	const vf1, pf = "0000:02:10.2", "0000:02:00.0"
	event := func(action, subsystem, address string) pci.Change {
		a, err := pci.ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		return pci.Change{Action: action, Subsystem: subsystem, Address: a}
	}
	const old, new = "igbvf", "uio_pci_generic"
	tests := map[string]struct {
		events           []pci.Change
		driver0, driver1 string
		scans, refreshes int
	}{
		"of one VF":          {[]pci.Change{event("bind", "pci", vf)}, new, old, 0, 1},
		"several of one":     {[]pci.Change{event("unbind", "pci", vf), event("remove", "net", vf), event("bind", "pci", vf)}, new, old, 0, 1},
		"of both":            {[]pci.Change{event("bind", "pci", vf), event("bind", "pci", vf1)}, new, new, 0, 1},
		"of what sits on it": {[]pci.Change{event("add", "vdpa", vf)}, new, old, 0, 1},
		"of the PF":          {[]pci.Change{event("add", "auxiliary", pf)}, old, old, 0, 1},
		"lost":               {[]pci.Change{{Lost: true}}, new, new, 1, 0},
		"a VF goes":          {[]pci.Change{event("remove", "pci", vf)}, new, old, 0, 1},
		"a function comes":   {[]pci.Change{event("add", "pci", "0000:05:00.0")}, new, new, 1, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 2)
			i := looked(tree)
			before := i.Stats()
			for v, name := range map[string]string{vf: "ens2v0", vf1: "ens2v1"} {
				tree.Bind(v, new)
				tree.RemoveNet(v, name)
			}
			for _, e := range test.events {
				i.event(e)
			}
			i.look()
			if i.driver(vf) != test.driver0 || i.driver(vf1) != test.driver1 {
				t.Errorf("drivers %s and %s, want %s and %s", i.driver(vf), i.driver(vf1), test.driver0, test.driver1)
			}
			after := i.Stats()
			if scans, refreshes := after.Scans-before.Scans, after.Refreshes-before.Refreshes; scans != test.scans || refreshes != test.refreshes {
				t.Errorf("%d scans and %d refreshes, want %d and %d", scans, refreshes, test.scans, test.refreshes)
			}
		})
	}
}
