package defaultroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nhID is RTA_NH_ID of linux/rtnetlink.h (Linux 5.3), which golang.org/x/sys/unix lacks.
const nhID = 30

// A route is what RTM_NEWROUTE carries: a struct rtmsg and attributes. One that the kernel listed goes back with all that somebody
// has set of it, but for how long it is valid: that is listed in another attribute than it is taken in.
type route []byte

// via is a default route through an interface.
func via(gateway netip.Addr, index int) route {
	m := nl.NewRtMsg()
	m.Family = unix.AF_INET6
	if gateway.Is4() {
		m.Family = unix.AF_INET
	}
	r := append(m.Serialize(), nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()).Serialize()...)
	return append(r, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))).Serialize()...) //nolint:gosec // an index fits
}

func (r route) delete() error { return r.send(unix.RTM_DELROUTE, 0) }

// Appended, not added: two gateways of one family are two routes of one metric.
func (r route) append() error { return r.send(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND) }

func (r route) send(kind, flags int) error {
	request := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	request.AddRawData(r)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (r route) String() string {
	family := "IPv6"
	if r[0] == unix.AF_INET {
		family = "IPv4"
	}
	all, _ := nl.ParseRouteAttr(r[unix.SizeofRtMsg:]) // what cannot be read is not named
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.RTA_GATEWAY {
			return "the default route via " + addr.String()
		}
	}
	return "an " + family + " default route"
}

// list lists the default routes of both families in the main table.
func list() (out []route, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var messages [][]byte
		for try := 0; ; try++ { // what a change has interrupted may lack a route that was there all the time
			request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
			request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
			messages, err = request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
			if !errors.Is(err, nl.ErrDumpInterrupted) || try == 10 {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for _, m := range messages {
			// A kernel without IPv6 lists the routes of all families that it has.
			r, err := listed(m)
			if err != nil {
				return nil, fmt.Errorf("list default routes: read what the kernel says of one: %w", err)
			}
			if r != nil && r[0] == family {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// listed is a default route as the kernel takes it back; nil for other routes.
func listed(message []byte) (route, error) {
	if len(message) < unix.SizeofRtMsg {
		return nil, unix.EBADMSG
	}
	head := slices.Clone(message[:unix.SizeofRtMsg])
	m := nl.DeserializeRtMsg(head)
	if m.Dst_len != 0 || m.Table != unix.RT_TABLE_MAIN || m.Type != unix.RTN_UNICAST || m.Flags&unix.RTM_F_CLONED != 0 {
		return nil, nil
	}
	// Others say how the next hop is, and are refused in a request.
	const ours = unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE
	m.Flags &= ours
	all, err := nl.ParseRouteAttr(message[unix.SizeofRtMsg:])
	if err != nil {
		return nil, err
	}
	r := route(head)
	object := slices.ContainsFunc(all, func(a syscall.NetlinkRouteAttr) bool { return a.Attr.Type == nhID })
	for _, a := range all {
		if object && slices.Contains([]uint16{unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_OIF, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE}, a.Attr.Type) {
			continue // a next hop object is listed with what is in it, and taken without
		}
		value := slices.Clone(a.Value)
		if a.Attr.Type == unix.RTA_MULTIPATH {
			for hops := value; len(hops) >= unix.SizeofRtNexthop; {
				size := int(binary.NativeEndian.Uint16(hops))
				hops[2] &= ours // struct rtnexthop: u16 length, u8 flags, u8 hops, int index, attributes
				hops = hops[min(max(align(size), unix.SizeofRtNexthop), len(hops)):]
			}
		}
		r = append(r, nl.NewRtAttr(int(a.Attr.Type), value).Serialize()...)
	}
	return r, nil
}

func align(size int) int { return (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1) }

// linkIndex finds the interface. The error wraps ErrGateway if there is none.
func linkIndex(name string) (int, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: %w", ErrGateway, err)
	}
	if err == nil && (len(messages) != 1 || len(messages[0]) < unix.SizeofIfInfomsg) {
		err = unix.EBADMSG
	}
	if err != nil {
		return 0, err
	}
	return int(nl.DeserializeIfInfomsg(messages[0]).Index), nil
}
