package pci_test

import (
	"testing"
	"time"

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
			if info, err := ghw.PCI(ghw.WithChroot(root), ghw.WithDisableWarnings()); err != nil || len(info.Devices) != largePFs*(largeVFs+1) {
				b.Fatal(err)
			}
		}
	})
}

// To read one VF again is no scan: on the large node it is to take less than 1/500 of one, so on an eighth of it less than
// 1/62. It takes a tenth of that or less; the best of several are compared, since the machine does other things, too.
func TestRefreshIsNoScan(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddLarge(largePFs/8, largeVFs)
	var s *pci.Snapshot
	scan := best(3, func() (err error) { s, err = pci.Scan(tree.Root); return err }, t)
	a := s.Devices()[200].Address
	refresh := best(50, func() error { _, err := s.Refresh(tree.Root, a); return err }, t)
	t.Logf("scan %s, refresh %s: 1/%d", scan, refresh, scan/refresh)
	if scan < 62*refresh {
		t.Errorf("a refresh takes 1/%d of a scan", scan/refresh)
	}
}

func best(times int, do func() error, t *testing.T) time.Duration {
	t.Helper()
	least := time.Hour
	for range times {
		started := time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		least = min(least, time.Since(started))
	}
	return least
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
