package pool_test

import (
	"fmt"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// BenchmarkAssign gives 4,112 devices to 32 pools, of which each takes half of a PF's VFs: compare it with a cold scan of as
// many, BenchmarkScan of pkg/pci.
func BenchmarkAssign(b *testing.B) {
	const pfs, vfs = 16, 256
	c := &pool.Config{}
	var devices []*pool.Device
	for p := range pfs {
		name, address := fmt.Sprintf("p%d", p), fmt.Sprintf("0000:%02x:00.0", 0x10+4*p)
		for half := range 2 {
			c.Pools = append(c.Pools, pool.Pool{
				Resource: fmt.Sprintf("intel.com/pool%d", 2*p+half), Type: pool.NetDevice,
				Selectors: []pool.Selector{{
					Vendors: []string{"8086"}, Drivers: []string{"iavf", "vfio-pci"},
					PFNames: []pool.Ranged{{PF: name, Ranges: []pool.Range{{First: half * vfs / 2, Last: (half+1)*vfs/2 - 1}}}},
				}},
			})
		}
		devices = append(devices, &pool.Device{ID: address, Type: pool.NetDevice, Vendor: "8086", Driver: "ice", Index: -1, Reserved: "it has VFs"})
		for v := range vfs {
			devices = append(devices, &pool.Device{
				ID: fmt.Sprintf("%s-%d", address, v), Type: pool.NetDevice, Vendor: "8086", Driver: "iavf", PF: address,
				PFNames: []string{name}, Index: v,
			})
		}
	}
	for b.Loop() {
		taken := 0
		for _, p := range pool.Assign(c, devices, nil) {
			if p >= 0 {
				taken++
			}
		}
		if taken != pfs*vfs {
			b.Fatalf("%d devices have a pool", taken)
		}
	}
}
