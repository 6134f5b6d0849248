//go:build lab

package bench

import (
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// direct is the same attachment by a netlink library's calls, as a program would make them that does nothing else: one for each
// setting, the move, the name, up; and the way back. Nothing is looked up, read back or written down; sockets stay open.
type direct struct {
	host, pod     *netlink.Handle
	hostFd, podFd int
	pf, link      netlink.Link
	index         int
	name          string
	own           net.HardwareAddr
}

// newDirect needs a VF with its own MAC, which is not among what it sets back by itself.
func newDirect(b *testing.B, pf vf.PF, device *pci.Device) *direct {
	b.Helper()
	host, pod := open(b, "/proc/thread-self/ns/net"), open(b, podPath)
	d := &direct{hostFd: host.Fd(), podFd: pod.Fd(), index: device.VFIndex}
	conn, err := vf.NewConn(host)
	if err != nil {
		b.Fatal(err)
	}
	dev, err := conn.Find(device.Address.String())
	if err != nil {
		b.Fatal(err)
	}
	d.name, d.own = dev.Name, dev.MAC[:]
	d.pf = &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: pf.Index}}
	d.link = &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: dev.Index}}
	d.host, d.pod = handle(b, host), handle(b, pod)
	return d
}

func handle(b *testing.B, ns *netns.Netns) (h *netlink.Handle) {
	b.Helper()
	err := ns.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(h.Close)
	return h
}

func (d *direct) add() error {
	return d.calls(
		func() error { return d.host.LinkSetHardwareAddr(d.link, mac) },
		func() error { return d.host.LinkSetVfHardwareAddr(d.pf, d.index, mac) },
		func() error { return d.host.LinkSetVfVlan(d.pf, d.index, vlan) },
		func() error { return d.host.LinkSetVfSpoofchk(d.pf, d.index, true) },
		func() error { return d.host.LinkSetVfTrust(d.pf, d.index, true) },
		func() error { return d.host.LinkSetNsFd(d.link, d.podFd) },
		func() error { return d.pod.LinkSetName(d.link, "net1") },
		func() error { return d.pod.LinkSetUp(d.link) },
	)
}

func (d *direct) del() error {
	return d.calls(
		func() error { return d.pod.LinkSetDown(d.link) },
		func() error { return d.pod.LinkSetName(d.link, d.name) },
		func() error { return d.pod.LinkSetNsFd(d.link, d.hostFd) },
		func() error { return d.host.LinkSetVfTrust(d.pf, d.index, false) },
		func() error { return d.host.LinkSetVfVlan(d.pf, d.index, 0) },
		func() error { return d.host.LinkSetVfHardwareAddr(d.pf, d.index, make(net.HardwareAddr, 6)) },
		func() error { return d.host.LinkSetHardwareAddr(d.link, d.own) },
	)
}

func (d *direct) calls(calls ...func() error) error {
	for i, call := range calls {
		if err := call(); err != nil {
			return fmt.Errorf("direct calls, number %d: %w", i+1, err)
		}
	}
	return nil
}
