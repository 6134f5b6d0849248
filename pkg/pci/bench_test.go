package pci_test

import (
	"testing"

	"github.com/jaypipes/ghw"
	"golang.org/x/sys/unix"

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

// cpuTime reports the processor's time per operation, which is comparable on a machine that does other things, too.
func cpuTime(b *testing.B) func() {
	b.Helper()
	used := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkScan is a cold scan with the whole SR-IOV graph, beside what ghw takes for the functions' identity alone.
func BenchmarkScan(b *testing.B) {
	root := large(b)
	b.Run("viaduct", func(b *testing.B) {
		b.ReportAllocs()
		defer cpuTime(b)()
		for b.Loop() {
			if s, err := pci.Scan(root); err != nil || len(s.Devices()) != largePFs*(largeVFs+1) {
				b.Fatal(len(s.Devices()), err)
			}
		}
	})
	b.Run("ghw", func(b *testing.B) {
		b.ReportAllocs()
		defer cpuTime(b)()
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
	defer cpuTime(b)()
	for b.Loop() {
		if _, err := s.Refresh(root, a); err != nil {
			b.Fatal(err)
		}
	}
}
