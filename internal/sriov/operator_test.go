package sriov_test

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

const bootNow = "b-now"

// plugin is one for a tree with two VFs.
func operated(t *testing.T) (p *sriov.Plugin, tree pcitest.Tree, vfs []pci.Address) {
	t.Helper()
	tree = pcitest.New(t)
	for _, a := range tree.AddIGB("02", "ens2", 4, 2) {
		address, err := pci.ParseAddress(a)
		if err != nil {
			t.Fatal(err)
		}
		vfs = append(vfs, address)
	}
	tree.Write("proc/sys/kernel/random/boot_id", bootNow)
	p = &sriov.Plugin{
		Root: tree.Root, Records: sriov.DefaultRecords(t.TempDir()), Log: slog.New(slog.DiscardHandler), Out: io.Discard,
		LockWait: time.Second, ReturnWait: time.Second,
	}
	return p, tree, vfs
}

// taken is the record of VF 0 in the namespace that this test runs in, which lives.
func taken(t *testing.T) *sriov.Record {
	t.Helper()
	const path = "/proc/self/ns/net"
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	id, err := ns.ID()
	if err != nil {
		t.Fatal(err)
	}
	return &sriov.Record{
		Boot: bootNow, Phase: sriov.Attached, Owner: sriov.Owner{ContainerID: "c1", IfName: "net1"}, Netns: sriov.Place{Path: path, ID: id},
		Identity: sriov.Identity{PF: pci.Address{Bus: 2}, Driver: "igbvf", NumVFs: 2}, Baseline: sriov.Baseline{Settings: vf.Defaults()},
	}
}

// What Restore does with VFs that are not there, or that nobody has changed. The rest needs real ones: see the lab's tests.
func TestRestoreWithoutAVF(t *testing.T) {
	p, tree, vfs := operated(t)
	if got, err := p.Restore(t.Context(), vfs[0], false); got != sriov.NoRecord || err != nil {
		t.Errorf("without a record: %q, %v", got, err)
	}
	if _, err := p.Restore(t.Context(), pci.Address{Bus: 9}, false); !errors.Is(err, pci.ErrNoDevice) {
		t.Errorf("no VF, no record: %v", err)
	}
	key := vfs[0].String()
	if err := p.Records.Write(key, taken(t)); err != nil {
		t.Fatal(err)
	}
	tree.RemoveVFs("0000:02:00.0")
	if _, err := p.Restore(t.Context(), vfs[0], false); !errors.Is(err, sriov.ErrLiving) || !strings.Contains(err.Error(), "container c1") {
		t.Errorf("VF gone, its owner alive: %v", err)
	}
	if got, err := p.Restore(t.Context(), vfs[0], true); got != sriov.Gone || err != nil {
		t.Errorf("VF gone, by force: %q, %v", got, err)
	}
	if err := p.Records.Read(key, &sriov.Record{}); !errors.Is(err, journal.ErrNotExist) {
		t.Errorf("its record: %v", err)
	}
}

func TestDead(t *testing.T) {
	p, _, _ := operated(t)
	tests := map[string]struct {
		change func(*sriov.Record)
		want   bool
	}{
		"its owner lives":               {func(*sriov.Record) {}, false},
		"its owner is gone":             {func(r *sriov.Record) { r.Netns.Path = "/run/netns/none" }, true},
		"another one is at that path":   {func(r *sriov.Record) { r.Netns.ID.Inode++ }, true},
		"the way back was not finished": {func(r *sriov.Record) { r.Phase = sriov.Removing }, true},
		"free":                          {func(r *sriov.Record) { r.Phase = sriov.Free }, false},
		"free, of another boot":         {func(r *sriov.Record) { r.Phase, r.Boot = sriov.Free, "b-before" }, true},
	}
	for name, test := range tests {
		r := taken(t)
		test.change(r)
		if got := p.Dead(r); got != test.want {
			t.Errorf("%s: dead is %v, want %v", name, got, test.want)
		}
	}
}

// Which records count, by what files say: a tree that was captured has no more.
func TestViewOfRecords(t *testing.T) {
	tests := map[string]struct {
		change func(*sriov.Record)
		void   string
		open   bool
	}{
		"attached":       {func(*sriov.Record) {}, "", true},
		"free":           {func(r *sriov.Record) { r.Phase = sriov.Free }, "", false},
		"another boot":   {func(r *sriov.Record) { r.Boot = "b-before" }, "it is from before the last boot", false},
		"another VF":     {func(r *sriov.Record) { r.Identity.Index = 1 }, "it is of another VF that had this address: VF 1 of 0000:02:00.0 when that had 2 VFs", false},
		"more VFs since": {func(r *sriov.Record) { r.Identity.NumVFs = 1 }, "", true},
		"another driver": {func(r *sriov.Record) { r.Phase, r.Identity.Driver = sriov.Free, "vfio-pci" }, "it is of a time when the driver was vfio-pci", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, tree, vfs := operated(t)
			r := taken(t)
			test.change(r)
			if err := p.Records.Write(vfs[0].String(), r); err != nil {
				t.Fatal(err)
			}
			snapshot, err := pci.Scan(tree.Root)
			if err != nil {
				t.Fatal(err)
			}
			i, err := p.Inspect()
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			v := i.View(snapshot.Device(vfs[0]), snapshot.Device(pci.Address{Bus: 2}))
			if v.Void != test.void || v.Open() != test.open || v.Live != nil || v.Differences != nil {
				t.Errorf("got %+v", v)
			}
		})
	}
}
