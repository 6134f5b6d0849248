package pci_test

import (
	"testing"

	"github.com/jaypipes/ghw"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// The large node: 16 PFs with 256 VFs each.
const largePFs, largeVFs = 16, 256

func large(b *testing.B) string {
	b.Helper()
	tree := pcitest.New(b)
	tree.AddLarge(largePFs, largeVFs)
	return tree.Root
}

// BenchmarkScan is a cold scan with the whole SR-IOV graph, beside what ghw takes for the functions' identity alone.
func BenchmarkScan(b *testing.B) {
	root := large(b)
	b.Run("viaduct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s, err := pci.Scan(root); err != nil || len(s.Devices()) != largePFs*(largeVFs+1) {
				b.Fatal(len(s.Devices()), err)
			}
		}
	})
	b.Run("ghw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if info, err := ghw.PCI(ghw.WithChroot(root)); err != nil || len(info.Devices) != largePFs*(largeVFs+1) {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRefresh is one VF that changed.
func BenchmarkRefresh(b *testing.B) {
	root := large(b)
	s, err := pci.Scan(root)
	if err != nil {
		b.Fatal(err)
	}
	a := s.Devices()[200].Address
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Refresh(root, a); err != nil {
			b.Fatal(err)
		}
	}
}
