package pci_test

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// smallTree has one of everything, in few files: to make them is what takes the time. Its function is its own VF.
const smallTree = `sys/bus/pci/devices/0000:02:00.0/
 class = 0x020000
 vendor = 0x15b3
 device = 0x101d
 driver -> d/vfio-pci
 iommu_group -> g/7
 numa_node = -1
 sriov_totalvfs = 8
 sriov_numvfs = 1
 sriov_stride = 1
 virtfn0 -> ../0000:02:00.1
 net/e/ifindex = 4
 net/e/phys_port_name = pf0vf0
 infiniband/m/ports/1/pkeys/0 = 0x8001
 infiniband_mad/umad0/ibdev = m
 m.sf.4/subsystem -> auxiliary
 m.sf.4/sfnum = 88
 v/subsystem -> vdpa
 v/vhost-vdpa-0/
 vfio-dev/vfio0/dev = 1:1
sys/bus/pci/devices/0000:02:00.1 -> 0000:02:00.0
sys/bus/pci/devices/0000:02:00.0/physfn -> ../0000:02:00.0
sys/bus/vdpa/devices/v -> ../../pci/devices/0000:02:00.0/v
sys/bus/auxiliary/devices/m.sf.4 -> ../../pci/devices/0000:02:00.0/m.sf.4
`

// FuzzScan reads whatever tree the bytes describe, as far as they do: see pcitest.Unpack. A scan, and the read of one
// function, must agree and end, whatever is in the files and wherever the links lead.
func FuzzScan(f *testing.F) {
	f.Add([]byte(smallTree))
	f.Add([]byte("sys/bus/pci/devices/\n x -> .\n"))
	trees, err := filepath.Glob("pcitest/testdata/*.tree")
	if err != nil || len(trees) == 0 {
		f.Fatalf("captured trees: %q, %v", trees, err)
	}
	for _, path := range trees {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 16<<10 {
			return // a larger one is slower, not more
		}
		root := t.TempDir()
		_ = pcitest.Unpack(text, root) // what came before the fault is a tree, too
		snapshot, err := pci.Scan(root)
		if err != nil {
			if _, odd := errors.AsType[*fs.PathError](err); !odd && !errors.Is(err, pci.ErrAddress) {
				t.Errorf("scan: %v", err)
			}
			return
		}
		devices := snapshot.Devices()
		if !slices.IsSortedFunc(devices, func(a, b *pci.Device) int { return cmp.Or(a.Address.Compare(b.Address), -1) }) {
			t.Error("the devices are not in order, or one is there twice")
		}
		for _, d := range devices {
			pci.ReadNodes(root, d.Address)
			if pf := snapshot.PF(d); pf != nil && (d.VFIndex >= len(pf.VFs) || pf.VFs[d.VFIndex] != d.Address) {
				t.Errorf("VF %d of %s is not %s", d.VFIndex, pf.Address, d.Address)
			}
			for _, sf := range d.Subfunctions {
				pci.ReadSubfunctionNodes(root, sf.Name)
			}
		}
		refreshed, err := snapshot.Refresh(root)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(devices, refreshed.Devices()); diff != "" {
			t.Errorf("a refresh of nothing changed something:\n%s", diff)
		}
	})
}
