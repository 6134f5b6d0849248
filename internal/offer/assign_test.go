package offer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// largeNode has two pools for each PF, each with half of its VFs.
func largeNode(pfs, vfs int) (*pool.Config, []*inventory.Device) {
	c := &pool.Config{}
	var devices []*inventory.Device
	for p := range pfs {
		name := fmt.Sprintf("p%d", p)
		for half := range 2 {
			c.Pools = append(c.Pools, pool.Pool{
				Resource: fmt.Sprintf("intel.com/pool%d", 2*p+half), Type: pool.NetDevice, PFLink: half == 1,
				Selectors: []pool.Selector{{
					Vendors: []string{"8086"}, Drivers: []string{"iavf", "vfio-pci"},
					PFNames: []pool.Ranged{{PF: name, Ranges: []pool.Range{{First: half * vfs / 2, Last: (half+1)*vfs/2 - 1}}}},
				}},
			})
		}
		for v := range vfs {
			devices = append(devices, &inventory.Device{Device: pool.Device{
				ID: fmt.Sprintf("0000:%02x:%02x.%d", p, v/8, v%8), Type: pool.NetDevice, Vendor: "8086", Driver: "iavf", PF: name,
				PFNames: []string{name}, Index: v,
			}})
		}
	}
	return c, devices
}

// Whatever changes of devices, sorting in what changed comes to what sorting everything does, at the cost of what changed.
func TestAssignOnlyWhatChanged(t *testing.T) {
	const pfs, vfs = 4, 16
	c, devices := largeNode(pfs, vfs)
	held := map[string]string{devices[3].ID: "intel.com/pool7", devices[4].ID: "intel.com/gone"}
	o, now, random := &Offer{Grace: time.Hour}, time.Now(), rand.New(rand.NewPCG(1, 2))
	resources := o.assign(c, devices, held, now)
	changes := []func(*inventory.Device){
		func(d *inventory.Device) { d.Driver = "igb" },
		func(d *inventory.Device) { d.Driver = "iavf" },
		func(d *inventory.Device) { d.Unhealthy = "no driver is bound to it" },
		func(d *inventory.Device) { d.Unhealthy = "" },
		func(d *inventory.Device) { d.PFDown = !d.PFDown },
		func(d *inventory.Device) { d.Index = (d.Index + vfs/2) % vfs },
		func(d *inventory.Device) { d.Reserved = "it carries the node's traffic" },
		func(d *inventory.Device) { d.Reserved = "" },
		func(*inventory.Device) {},
	}
	for step := range 500 {
		before := cmp.Diff(nil, resources)
		devices = slices.Clone(devices)
		few := 1 + random.IntN(3)
		for range few {
			n := random.IntN(len(devices))
			d := *devices[n]
			changes[random.IntN(len(changes))](&d)
			devices[n] = &d
		}
		old := resources
		resources = o.assign(c, devices, held, now)
		if o.last.matched > few {
			t.Fatalf("step %d: %d devices were compared with the pools for %d changes", step, o.last.matched, few)
		}
		if before != cmp.Diff(nil, old) {
			t.Fatalf("step %d: what others were told of was changed", step)
		}
		want := (&Offer{}).assign(c, devices, held, now)
		if diff := cmp.Diff(want, resources, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("step %d (-all +changed):\n%s", step, diff)
		}
		changed := 0
		for i := range resources {
			if a, b := old[i].Devices, resources[i].Devices; len(a) != len(b) || len(a) > 0 && &a[0] != &b[0] {
				changed++
			}
		}
		if changed > 2*few {
			t.Fatalf("step %d: %d pools were made anew for %d changes", step, changed, few)
		}
	}
	for _, all := range []struct {
		why string
		do  func()
	}{
		{"configuration", func() { again := *c; c = &again }},
		{"what pods have", func() { held = map[string]string{} }},
		{"a device is gone", func() { devices = devices[1:] }},
		{"and still is", func() {}},
	} {
		all.do()
		if o.assign(c, devices, held, now); o.last.matched != len(devices) {
			t.Errorf("%s: %d devices were compared with the pools, want all %d", all.why, o.last.matched, len(devices))
		}
	}
}

// BenchmarkAssignChange is one of 4,096 VFs that changed, from the devices as they are now to what 32 resources offer. For what
// comes before it see BenchmarkChange of internal/inventory, and there the scan of as many to compare both with.
func BenchmarkAssignChange(b *testing.B) {
	used := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	c, devices := largeNode(16, 256)
	o, now := &Offer{}, time.Now()
	o.assign(c, devices, nil, now)
	before := used()
	for b.Loop() {
		changed := slices.Clone(devices)
		d := *devices[200]
		if o.last.devices[200].Unhealthy == "" {
			d.Unhealthy = "no driver is bound to it"
		}
		changed[200] = &d
		if r := o.assign(c, changed, nil, now)[1].Devices[72]; r.ID != d.ID || r.Unhealthy != d.Unhealthy || o.last.matched != 1 {
			b.Fatal(r)
		}
	}
	b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
}
