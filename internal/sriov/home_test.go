package sriov

import (
	"context"
	"log/slog"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func ip(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// atHomeNow is a VF that has come home as net1 from its pod, in a network namespace of this test's own: to the kernel its
// interface is one of a veth pair, and its PF none.
func atHomeNow(t *testing.T) *device {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	ns, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	host, err := vf.NewConn(ns)
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "link add name net1 index 70 type veth")
	tree := pcitest.New(t)
	key := tree.AddIGB("02", "ens2", 69, 1)[0] // its VF's interface has index 70
	address, err := pci.ParseAddress(key)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlugin(t)
	p.Root = tree.Root
	d := &device{p: p, log: slog.New(slog.DiscardHandler), ns: ns, host: host}
	if err := d.read(address); err != nil {
		t.Fatal(err)
	}
	return d
}

// Names that others have taken for good do not keep a VF from the next pod; the VF gets them back when they are free.
func TestHomeNamesAreTaken(t *testing.T) {
	d := atHomeNow(t)
	dev, ok := d.atHome()
	if !ok {
		t.Fatal("the VF's interface is not at home")
	}
	dev.Name, dev.AltNames = "ens2v0", []string{"enp2s0v0", "enp2s16"}
	r := sample()
	r.Baseline.Netdev = &dev
	ip(t, "link add ens2v0 type veth")
	ip(t, "link add other type veth")
	ip(t, "link property add dev other altname enp2s0v0")

	names := func() []string {
		now, err := d.host.Get(70)
		if err != nil {
			t.Fatal(err)
		}
		return append([]string{now.Name}, now.AltNames...)
	}
	putBack := func() {
		t.Helper()
		r.Owed = Owed{}
		if err := d.resetNetdev(context.Background(), r, false); err != nil {
			t.Fatal(err)
		}
	}
	putBack()
	if diff := cmp.Diff([]string{"vf000002100", "enp2s16"}, names()); diff != "" {
		t.Errorf("both names taken: %s", diff)
	}
	if diff := cmp.Diff(Owed{Name: "ens2v0", AltNames: []string{"enp2s0v0"}}, r.Owed); diff != "" {
		t.Errorf("owed: %s", diff)
	}
	// The next pod's ADD takes what the VF is called for no name that somebody gave it.
	d.owed = r.Owed
	now, _ := d.atHome()
	d.nameOwed(&now)
	if diff := cmp.Diff(dev.AltNames, now.AltNames); diff != "" || now.Name != "ens2v0" {
		t.Errorf("the next baseline is called %s: %s", now.Name, diff)
	}
	putBack() // still taken
	ip(t, "link del ens2v0")
	putBack()
	if diff := cmp.Diff([]string{"ens2v0", "enp2s16"}, names()); diff != "" {
		t.Errorf("the name is free: %s", diff)
	}
	ip(t, "link del other")
	putBack()
	if diff := cmp.Diff([]string{"ens2v0", "enp2s0v0", "enp2s16"}, names()); diff != "" || !r.Owed.IsEmpty() {
		t.Errorf("all are free, owed %v: %s", r.Owed, diff)
	}
}
