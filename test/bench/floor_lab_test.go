//go:build lab

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A floor is the least that an attachment and its end ask of the kernel: netlink messages that were put together before,
// sent one after the other over sockets that are open. Nothing of pkg/vf is in it, nor a netlink library's own work: for
// each message there is one sendto and one recvfrom. An attachment is the VF's own MAC, what differs from igb's defaults in
// one message to the PF, and one move with name and up; its end is the way back.
type floor struct{ adds, dels []message }

type message struct {
	what   string
	socket int
	bytes  []byte
}

// newFloor needs a VF that has igb's defaults: the spoof check is wanted, and on already.
func newFloor(b *testing.B, pf vf.PF, device *pci.Device) *floor {
	b.Helper()
	host, pod := open(b, "/proc/thread-self/ns/net"), open(b, podPath)
	conn, err := vf.NewConn(host)
	if err != nil {
		b.Fatal(err)
	}
	before, err := conn.Read(pf, device.VFIndex)
	if err != nil {
		b.Fatal(err)
	}
	want := vf.Settings{VLAN: &vf.Untagged, SpoofCheck: new(true), Trust: new(false)}
	if left := vf.Plan(before, want); !left.IsEmpty() {
		b.Fatalf("the VF is no fresh one of igb's: %v is not so", left)
	}
	dev, err := conn.Find(device.Address.String())
	if err != nil {
		b.Fatal(err)
	}
	index := uint32(device.VFIndex)
	return &floor{
		adds: []message{
			prepare(b, host, "set the VF's own MAC", unix.RTM_SETLINK, dev.Index, 0, nl.NewRtAttr(unix.IFLA_ADDRESS, mac)),
			prepare(b, host, "set the VF's entry", unix.RTM_SETLINK, pf.Index, 0, entry(index, mac, vlan, 1)),
			prepare(b, host, "move the VF to the pod", unix.RTM_NEWLINK, dev.Index, unix.IFF_UP,
				nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(pod.Fd()))), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("net1"))),
		},
		dels: []message{
			prepare(b, pod, "move the VF back", unix.RTM_NEWLINK, dev.Index, 0,
				nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(host.Fd()))), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(dev.Name))),
			// No MAC of the PF's: the VF may choose its own again, and takes its old one.
			prepare(b, host, "set the VF's entry back", unix.RTM_SETLINK, pf.Index, 0, entry(index, make([]byte, 6), 0, 0)),
			prepare(b, host, "set the VF's own MAC back", unix.RTM_SETLINK, dev.Index, 0, nl.NewRtAttr(unix.IFLA_ADDRESS, dev.MAC[:])),
		},
	}
}

func open(b *testing.B, path string) *netns.Netns {
	b.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Close() })
	return ns
}

// entry is the list with one VF's MAC, VLAN and trust.
func entry(index uint32, mac []byte, vlan, trust uint32) *nl.RtAttr {
	words := func(values ...uint32) (b []byte) {
		for _, v := range values {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
		return b
	}
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	info := list.AddRtAttr(nl.IFLA_VF_INFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_VF_MAC, append(append(words(index), mac...), make([]byte, 32-len(mac))...))
	info.AddRtAttr(nl.IFLA_VF_VLAN, words(index, vlan, 0))
	info.AddRtAttr(nl.IFLA_VF_TRUST, words(index, trust))
	return list
}

// prepare makes a message about an interface, which leaves it down or sets it up as flags says.
func prepare(b *testing.B, ns *netns.Netns, what string, kind, index int, flags uint32, attributes ...*nl.RtAttr) message {
	b.Helper()
	socket, err := ns.Route()
	if err != nil {
		b.Fatal(err)
	}
	r := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Flags, info.Change = int32(index), flags, flags
	r.AddData(info)
	for _, a := range attributes {
		r.AddData(a)
	}
	return message{what, socket, r.Serialize()}
}

func (f *floor) add() error { return send(f.adds) }
func (f *floor) del() error { return send(f.dels) }

func send(messages []message) error {
	for _, m := range messages {
		if err := m.send(); err != nil {
			return fmt.Errorf("the floor: %s: %w", m.what, err)
		}
	}
	return nil
}

var errAnswer = errors.New("the kernel's answer is no acknowledgement")

// send does not follow sequence numbers: what comes next is the answer. The Go runtime's signals may cut both calls off
// before they did anything.
func (m message) send() error {
	for {
		if err := unix.Sendto(m.socket, m.bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	var answer [4096]byte
	for {
		n, _, err := unix.Recvfrom(m.socket, answer[:], 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR:
			return errAnswer
		}
		if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
			return unix.Errno(errno)
		}
		return nil
	}
}
