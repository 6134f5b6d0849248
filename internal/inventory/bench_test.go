package inventory

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// BenchmarkChange is one VF of 4,096 that gets another driver or name, or goes into a pod and comes back: what the kernel says of
// it, and the devices as they are then. All of the tree's interfaces are real ones, in a network namespace of the benchmark's.
// Counted are the thread that listens and the one that looks, without the kernel's own work on the change. It says how many such
// changes take as long as one scan: it has to be 500. See BenchmarkAssignChange of internal/offer for what comes after it.
func BenchmarkChange(b *testing.B) {
	node := newRealNode(b, 16, 256)
	scan := cpu(b, unix.CLOCK_THREAD_CPUTIME_ID, func() {
		if _, err := pci.Scan(node.tree.Root); err != nil {
			b.Fatal(err)
		}
	})
	for _, kind := range []struct {
		name   string
		change func() (done func() bool)
	}{
		{"driver", node.bind},
		{"name", node.rename},
		{"pod", node.move},
		{"other link", node.flap},
	} {
		b.Run(kind.name, func(b *testing.B) {
			node.enter() // this is another goroutine
			var heard, handled time.Duration
			for b.Loop() {
				heard += cpu(b, node.watcher, func() {
					for done := kind.change(); !done(); {
						select {
						case <-node.i.pending.wake:
						case <-time.After(30 * time.Second):
							b.Fatal("the change was not seen")
						}
						time.Sleep(coalesce) // as Run does
						handled += cpu(b, unix.CLOCK_THREAD_CPUTIME_ID, node.i.look)
					}
				})
			}
			handled += heard
			b.ReportMetric(float64(handled)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(scan), "cpu-ns/scan")
			b.ReportMetric(float64(scan)*float64(b.N)/float64(handled), "changes/scan")
		})
	}
	if s := node.i.Stats(); s.Scans > 2 { // the first look, and when the watch began
		b.Errorf("it scanned: %+v", s)
	}
}

// A realNode has a generated tree, and each of its interfaces as a link of the kernel's.
type realNode struct {
	tb   testing.TB
	tree pcitest.Tree
	i    *Inventory

	address   pci.Address // of the VF that changes
	net       pcitest.Net
	inPod     bool
	here, pod *netlink.Handle
	ns, podNS int
	watcher   int32 // the clock of the thread that listens to the kernel
}

func newRealNode(b *testing.B, pfs, vfs int) *realNode {
	b.Helper()
	runtime.LockOSThread()
	n := &realNode{tb: b, tree: pcitest.New(b)}
	newNetns := func() int {
		n.check(unix.Unshare(unix.CLONE_NEWNET))
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		n.check(err)
		b.Cleanup(func() { _ = unix.Close(fd) }) // nothing was written
		return fd
	}
	handle := func() *netlink.Handle {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		n.check(err)
		b.Cleanup(h.Close)
		return h
	}
	n.podNS = newNetns()
	n.pod = handle()
	n.ns = newNetns()
	n.here = handle()
	n.check(n.here.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))
	n.check(n.here.LinkSetUp(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))

	n.tree.AddLarge(pfs, vfs)
	snapshot, err := pci.Scan(n.tree.Root)
	n.check(err)
	for index, d := range snapshot.Devices() {
		a := netlink.NewLinkAttrs()
		a.Name, a.Index = d.Netdevs[0].Name, d.Netdevs[0].Index
		var link netlink.Link = &netlink.Bridge{LinkAttrs: a} // every kernel has these
		if index == 200 {
			link = &netlink.Veth{LinkAttrs: a, PeerName: "far", PeerNamespace: netlink.NsFd(n.podNS)} // and these may move
			n.address, n.net = d.Address, pcitest.Net{Name: a.Name, Index: a.Index}
		}
		n.check(n.here.LinkAdd(link))
	}
	links := &netlinks.Links{}
	n.i = New(n.tree.Root, slog.New(slog.DiscardHandler), Options{Links: links})
	n.watch(b, links)
	n.i.lookAtAll()
	n.i.look()
	if devices, _ := n.i.Devices(); len(devices) != pfs*(vfs+1) || devices[200].Reserved != "" {
		b.Fatalf("%d devices", len(devices))
	}
	return n
}

// enter moves the goroutine's thread into the network namespace. It is never unlocked, so it ends with the goroutine.
func (n *realNode) enter() {
	runtime.LockOSThread()
	if err := unix.Setns(n.ns, unix.CLONE_NEWNET); err != nil {
		n.tb.Errorf("enter the network namespace: %v", err)
	}
}

// watch does what Run does.
func (n *realNode) watch(b *testing.B, links *netlinks.Links) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		n.enter()
		n.watcher = int32(^unix.Gettid()<<3 | 6) // as pthread_getcpuclockid(3) does
		done <- links.Watch(ctx, n.i.wake)
	}()
	b.Cleanup(func() {
		cancel()
		n.check(<-done)
	})
	<-n.i.pending.wake // it listens
}

func (n *realNode) check(err error) {
	n.tb.Helper()
	if err != nil {
		n.tb.Fatal(err)
	}
}

func (n *realNode) device() *Device {
	devices, _ := n.i.Devices()
	return devices[200]
}

func (n *realNode) bind() (done func() bool) {
	driver := map[string]string{"iavf": "vfio-pci", "vfio-pci": "iavf"}[n.device().Driver]
	n.tree.Bind(n.address.String(), driver)
	n.i.event(bound(n.address))
	return func() bool { return n.device().Driver == driver }
}

func (n *realNode) rename() (done func() bool) {
	n.tree.RemoveNet(n.address.String(), n.net.Name)
	n.net.Name = map[bool]string{true: "p0v199", false: "new"}[n.net.Name == "new"]
	n.tree.AddNet(n.address.String(), n.net)
	n.check(n.here.LinkSetName(n.link(), n.net.Name))
	n.i.event(pci.Change{Action: "move", Subsystem: "net", Address: n.address})
	return func() bool {
		return n.i.known[n.net.Index].Name == n.net.Name && n.i.latest.Device(n.address).Netdevs[0].Name == n.net.Name
	}
}

func (n *realNode) link() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: n.net.Index}}
}

func (n *realNode) move() (done func() bool) {
	n.inPod = !n.inPod
	if n.inPod {
		n.check(n.here.LinkSetNsFd(n.link(), n.podNS))
		n.tree.RemoveNet(n.address.String(), n.net.Name)
		n.i.event(pci.Change{Action: "remove", Subsystem: "net", Address: n.address})
	} else {
		n.check(n.pod.LinkSetNsFd(n.link(), n.ns))
		n.tree.AddNet(n.address.String(), n.net)
		n.i.event(pci.Change{Action: "add", Subsystem: "net", Address: n.address})
	}
	return func() bool {
		_, known := n.i.known[n.net.Index]
		return known != n.inPod && len(n.i.latest.Device(n.address).Netdevs) > 0 != n.inPod
	}
}

// flap is a change of an interface that is no VF's, such as there are several of at each pod's start.
func (n *realNode) flap() (done func() bool) {
	bridge, err := n.here.LinkByName("cni0")
	n.check(err)
	index := bridge.Attrs().Index
	was := len(n.i.known[index].AltNames)
	if was == 0 {
		n.check(n.here.LinkAddAltName(bridge, "bridge-of-pods"))
	} else {
		n.check(n.here.LinkDelAltName(bridge, "bridge-of-pods"))
	}
	return func() bool { return len(n.i.known[index].AltNames) != was }
}

// cpu is the processor's time that something takes, by the clock of a thread.
func cpu(b *testing.B, clock int32, do func()) time.Duration {
	b.Helper()
	used := func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(clock, &now); err != nil {
			b.Fatal(err)
		}
		return time.Duration(now.Nano())
	}
	before := used()
	do()
	return used() - before
}
