package offer_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
)

func TestHealthRecovers(t *testing.T) {
	const withLink = `{"resourceName": "sriov", "selectors": {"pfNames": ["ens2#0"]}, "healthCheck": {"pfLink": true}}`
	n := prepareNode(t, pools(withLink, other))
	// The real one, since it remembers what a device was before it lost its driver.
	inv := inventory.New(n.tree.Root, slog.New(slog.DiscardHandler), inventory.Options{
		Rescan: 20 * time.Millisecond,
		Links:  carrier(filepath.Join(n.tree.Root, n.tree.Dir("0000:02:00.0"), "net/ens2/carrier")),
	})
	n.inventory = inv
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { inv.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	steps := []struct {
		what, sriov, other, reason string
		do                         func()
	}{
		{what: "start", sriov: vf0, other: vf1},
		{
			what: "PF has no carrier", sriov: vf0 + "!", other: vf1, reason: "its PF has no carrier",
			do: func() { n.tree.Write(n.tree.Dir("0000:02:00.0")+"/net/ens2/carrier", "0") },
		},
		{
			what: "PF has carrier", sriov: vf0, other: vf1,
			do: func() { n.tree.Write(n.tree.Dir("0000:02:00.0")+"/net/ens2/carrier", "1") },
		},
		{
			what: "driver unbound", sriov: vf0, other: vf1 + "!", reason: "no driver is bound to it; igbvf was",
			do: func() { n.tree.RemoveNet(vf1, "ens2v1"); n.tree.Bind(vf1, "") },
		},
		{what: "driver bound", sriov: vf0, other: vf1, do: func() { n.tree.Bind(vf1, "igbvf") }},
		{what: "in a pod", sriov: vf0, other: vf1, do: func() { n.tree.RemoveNet(vf0, "ens2v0") }},
		{
			what: "vfio without its node", sriov: vf0, other: vf1 + "!", reason: "its driver is vfio-pci, but it has no vfio node",
			do: func() { n.tree.Bind(vf1, "vfio-pci") },
		},
		{what: "vfio node", sriov: vf0, other: vf1, do: func() { n.tree.Write("sys/class/vfio/2021/dev", "240:1") }},
	}
	for _, s := range steps {
		if s.do != nil {
			s.do()
		}
		n.sees(resource, s.sriov)
		n.sees("intel.com/other", s.other)
		if s.reason != "" {
			n.tells("/metrics", `health="unhealthy",pf="0000:02:00.0",reason="`+s.reason)
		}
	}
}

// A carrier is the file that says whether the PF's interface has it, for want of a kernel that does.
type carrier string

func (carrier) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

func (c carrier) Update(bool) (links map[int]netlinks.NodeLink, changed []int, err error) {
	up, err := os.ReadFile(string(c))
	return map[int]netlinks.NodeLink{4: {Name: "ens2", Up: string(up) == "1\n"}, 5: {Name: "ens2v0"}, 6: {Name: "ens2v1"}}, []int{4}, err
}
