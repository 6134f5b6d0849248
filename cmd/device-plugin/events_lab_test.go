//go:build lab

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// An events is an inventory that never looks of its own accord: what it knows, the kernel told it.
type events struct {
	t         *testing.T
	pf        *pci.Device
	inventory *inventory.Inventory
}

// mostLooks is how many looks at a change fit into a second. How long they take to come is the machine's affair.
const mostLooks = 20

// brings makes a change, and waits until the inventory is what a fresh look at the node finds. refreshes: the functions were
// read anew, though nothing that pools ask about is different.
func (e *events) brings(what string, refreshes bool, do func()) {
	e.t.Helper()
	before, was := e.inventory.Stats(), e.fresh()
	do()
	done, started := e.inventory.Stats(), time.Now()
	if fresh := e.fresh(); cmp.Equal(was, fresh) != refreshes {
		e.t.Fatalf("%s: the node has %v, before %v", what, fresh, was)
	}
	var got, want []string
	kubelettest.Eventually(e.t, what, func() bool {
		devices, _ := e.inventory.Devices()
		now := e.inventory.Stats()
		got, want = e.facts(devices), e.fresh()
		return cmp.Equal(want, got) && (!refreshes || now.Scans+now.Refreshes > before.Scans+before.Refreshes)
	})
	looks := e.inventory.Stats().Looks - done.Looks
	e.t.Logf("%s: known %s after it was done, in %d looks", what, time.Since(started).Round(time.Millisecond), looks)
	if looks > mostLooks {
		e.t.Errorf("%s: it took %d looks, want at most %d", what, looks, mostLooks)
	}
}

// settle waits until the kernel has had nothing to say for a while.
func (e *events) settle() {
	e.t.Helper()
	last, since := 0, time.Now()
	kubelettest.Eventually(e.t, "nothing happens any more", func() bool {
		if now := e.inventory.Stats().Looks; now != last {
			last, since = now, time.Now()
		}
		return last > 0 && time.Since(since) > 300*time.Millisecond
	})
}

func (e *events) fresh() []string {
	e.t.Helper()
	devices, err := inventory.Once("/", netlinks.NodeLinks)
	if err != nil {
		e.t.Fatal(err)
	}
	return e.facts(devices)
}

// facts are what pools ask about the PF and its VFs.
func (e *events) facts(devices []*inventory.Device) (facts []string) {
	for _, d := range devices {
		if d.ID == e.pf.Address.String() || d.PF == e.pf.Address.String() {
			facts = append(facts, fmt.Sprintf("%s: driver %q, number %d of %q, %s", d.ID, d.Driver, d.Index, d.PFNames, d.LinkType))
		}
	}
	return facts
}

func TestEventsBringEveryChange(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "modprobe", "vfio-pci").CombinedOutput(); err != nil {
		t.Fatalf("modprobe vfio-pci: %v: %s", err, out)
	}
	d := pf(t)
	uplink, ok := d.Uplink()
	if !ok {
		t.Fatalf("no interface on %s", d.Address)
	}
	e := &events{t: t, pf: d, inventory: inventory.New("/", slog.New(slog.DiscardHandler), inventory.Options{Rescan: time.Hour})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { e.inventory.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	e.settle() // it looks at first, and when either watch has begun

	e.brings("VFs made", false, func() { numVFs(t, d, 3) })
	v0, v1 := vf(t, d, 0).Address, vf(t, d, 1).Address
	netdev := waitForNetdev(t, v0)
	waitForNetdev(t, v1)
	e.settle()
	e.brings("VF renamed", true, func() { ip(t, "link", "set", netdev, "name", "viaduct0") })
	ip(t, "netns", "add", "pod")
	t.Cleanup(func() { ip(t, "netns", "del", "pod") })
	e.brings("VF moved into a pod", true, func() { ip(t, "link", "set", "viaduct0", "netns", "pod") })
	e.brings("VF moved back", true, func() { ip(t, "-n", "pod", "link", "set", "viaduct0", "netns", "1") })
	e.brings("VF bound to vfio-pci", false, func() { bind(t, v1, "vfio-pci") })
	e.brings("VF bound to igbvf", false, func() { bind(t, v1, "igbvf") })
	e.brings("PF renamed", false, func() {
		ip(t, "link", "set", uplink.Name, "down")
		ip(t, "link", "set", uplink.Name, "name", "viaductpf")
	})
	e.brings("PF renamed again", false, func() { ip(t, "link", "set", "viaductpf", "name", uplink.Name) })
	e.brings("VFs removed", false, func() { numVFs(t, d, 0) })
	e.brings("PF unplugged", false, func() { write(t, filepath.Join("/sys/bus/pci/devices", d.Address.String(), "remove"), "1") })
	t.Cleanup(func() { write(t, "/sys/bus/pci/rescan", "1") }) // harmless if it was done already
	e.brings("PF plugged in", false, func() { write(t, "/sys/bus/pci/rescan", "1") })
	e.brings("VFs of it made", false, func() { numVFs(t, d, 2) })
}
