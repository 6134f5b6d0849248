//go:build lab

package sriov_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// What a pod with CAP_NET_ADMIN can do to its interface does not stay.
func TestHostilePod(t *testing.T) {
	tests := map[string][][]string{
		"renames it":               {{"link", "set", "net1", "down"}, {"link", "set", "net1", "name", "eth7"}},
		"names it like the PF":     {{"link", "set", "net1", "down"}, {"link", "set", "net1", "name", "PF"}},
		"alternative name like PF": {{"link", "property", "add", "dev", "net1", "altname", "PF"}},
		"promiscuous":              {{"link", "set", "net1", "promisc", "on"}, {"link", "set", "net1", "allmulticast", "on"}},
		"MTU, queue, group, alias": {{"link", "set", "net1", "mtu", "1300", "txqueuelen", "17", "group", "5", "alias", "mine"}},
		"MAC":                      {{"link", "set", "net1", "down"}, {"link", "set", "net1", "address", "02:de:ad:00:00:01"}},
		"GSO limits":               {{"link", "set", "net1", "gso_max_size", "1500", "gso_max_segs", "7"}},
		"offloads":                 {{"ethtool", "-K", "net1", "tso", "off", "rx", "off", "gro", "off"}},
		"rings":                    {{"ethtool", "-G", "net1", "rx", "512", "tx", "128"}},
		"no multicast":             {{"link", "set", "net1", "multicast", "off"}},
		"IPv4 sizes":               {{"ipv4"}},
		"a program":                {{"xdp"}},
		"a program and an MTU":     {{"link", "set", "net1", "mtu", "1300"}, {"xdp"}},
		"a name full of signs":     {{"link", "set", "net1", "down"}, {"link", "set", "net1", "name", "$(rm)-;%d\\n"}},
	}
	for name, commands := range tests {
		for _, dies := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", and dies", false: ""}[dies], func(t *testing.T) {
				n := newNode(t)
				d := n.vfs[0]
				before := n.state(d)
				pf, err := n.host.Get(n.pf(d).Index)
				if err != nil {
					t.Fatal(err)
				}
				p := n.newPod()
				c := p.conf(d, conf{"vlan": 5})
				p.call("ADD", c).must(t)
				for _, args := range commands {
					args = slices.Clone(args)
					for i := range args {
						if args[i] == "PF" {
							args[i] = pf.Name
						}
					}
					switch args[0] {
					case "xdp":
						p.inside("net1", attachXDP)
					case "ipv4":
						p.inside("net1", setIPv4Sizes)
					case "ethtool":
						n.ip(append([]string{"netns", "exec", p.ns}, args...)...)
					default:
						n.ip(append([]string{"-n", p.ns}, args...)...)
					}
				}
				if dies {
					p.kill()
				}
				p.call("DEL", c).must(t)
				if diff := cmp.Diff(before, n.state(d)); diff != "" {
					t.Errorf("after DEL: %s", diff)
				}
			})
		}
	}
}

// attachXDP has a program look at each frame that comes in by an interface, and leaves it there.
func attachXDP(l netlink.Link) error {
	program, err := loadXDP()
	if err != nil {
		return err
	}
	defer unix.Close(program)
	return netlink.LinkSetXdpFd(l, program)
}

// setIPv4Sizes sets what iproute2 of Debian 12 does not know.
func setIPv4Sizes(l netlink.Link) error {
	return errors.Join(netlink.LinkSetGSOIPv4MaxSize(l, 3000), netlink.LinkSetGROIPv4MaxSize(l, 4000))
}

// inside runs f in the pod's network namespace, with an interface of the pod's.
func (p *pod) inside(link string, f func(netlink.Link) error) {
	p.Helper()
	ns, err := netns.Open(p.path())
	if err != nil {
		p.Fatal(err)
	}
	defer ns.Close()
	var l netlink.Link
	if err = ns.Do(func() error { l, err = netlink.LinkByName(link); return err }); err != nil {
		p.Fatal(err)
	}
	if err = ns.Do(func() error { return f(l) }); err != nil {
		p.Fatal(err)
	}
}

// A program that somebody holds on to cannot be taken from the interface: the second DEL takes the interface from the program.
func TestStubbornInterface(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	c := p.conf(d, conf{"vlan": 5, "mac": "02:00:00:00:00:19"})
	p.call("ADD", c).must(t)
	p.inside("net1", func(l netlink.Link) error {
		held, err := linkXDP(l.Attrs().Index)
		if err == nil {
			t.Cleanup(func() { _ = unix.Close(held) })
		}
		return err
	})
	_, err := p.call("DEL", c).run(t)
	wantCode(t, err, 11, "xdp")
	p.call("DEL", c).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

// linkXDP has a program look at an interface's frames for as long as somebody has the file open.
func linkXDP(index int) (fd int, err error) {
	program, err := loadXDP()
	if err != nil {
		return -1, err
	}
	defer unix.Close(program)
	attr := [...]uint32{uint32(program), uint32(index), unix.BPF_XDP, unix.XDP_FLAGS_SKB_MODE}
	n, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, fmt.Errorf("link a program: %w", errno)
	}
	return int(n), nil
}

// loadXDP gives the kernel a program that lets every frame pass: see bpf(2).
func loadXDP() (fd int, err error) {
	program := [...]uint64{0x2_0000_00b7 /* r0 = XDP_PASS */, 0x95 /* exit */}
	license := [...]byte{'G', 'P', 'L', 0}
	attr := struct {
		kind, count       uint32
		program, license  unsafe.Pointer
		logLevel, logSize uint32
		log               unsafe.Pointer
	}{unix.BPF_PROG_TYPE_XDP, uint32(len(program)), unsafe.Pointer(&program), unsafe.Pointer(&license), 0, 0, nil}
	n, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, fmt.Errorf("load a program: %w", errno)
	}
	return int(n), nil
}

// A name that is taken: on the way in and on the way home.
func TestNameCollisions(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	for _, name := range []string{"net%d", "all", "default"} {
		add := p.call("ADD", p.conf(d, full()))
		add.ifName = name
		_, err := add.run(t)
		wantCode(t, err, 4, name)
	}
	n.ip("-n", p.ns, "link", "add", "net1", "type", "dummy")
	_, err := p.call("ADD", p.conf(d, full())).run(t)
	wantCode(t, err, 4, "net1")
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after the refused ADD: %s", diff)
	}
	n.ip("-n", p.ns, "link", "del", "net1")
	p.call("ADD", p.conf(d, full())).must(t)
	n.ip("link", "add", before.Netdev.Name, "type", "dummy")
	n.ip("link", "add", "net1", "type", "dummy")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "net1").Run() })
	p.call("DEL", p.conf(d, full())).must(t)
	got := n.state(d)
	if want := "vf" + strings.NewReplacer(":", "", ".", "").Replace(d.Address.String()); got.Netdev.Name != want {
		t.Errorf("without its own name it is called %s, want %s", got.Netdev.Name, want)
	}
	got.Netdev.Name = before.Netdev.Name
	if diff := cmp.Diff(before, got); diff != "" {
		t.Errorf("after DEL: %s", diff)
	}
	if len(owing(t)) != 1 {
		t.Errorf("records that owe a name: %v", owing(t))
	}
	// The next pod gets it, and gives it its name back when that is free.
	p.call("ADD", p.conf(d, full())).must(t)
	n.ip("link", "del", before.Netdev.Name)
	p.call("DEL", p.conf(d, full())).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Errorf("with the next pod: %v", err)
	}
}
