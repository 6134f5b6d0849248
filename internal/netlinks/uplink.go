package netlinks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A NodeLink is what a network interface means to the node it is on.
type NodeLink struct {
	Name     string
	AltNames []string
	// Uplink says why the interface carries the node's own traffic: a default route goes through it, or through
	// something on top of it. Empty: it does not.
	Uplink string
	// Addressed says which address other than a link-local one it has, or what is on top of it. Empty: none.
	Addressed string
	Up        bool // has carrier and is up
}

// NodeLinks reads the interfaces of the calling thread's network namespace, by interface index.
func NodeLinks() (map[int]NodeLink, error) {
	links, err := dumpLinks()
	if err != nil {
		return nil, fmt.Errorf("list the node's interfaces: %w", err)
	}
	g := newGraph(links)
	if err := g.markRoutes(); err != nil {
		return nil, fmt.Errorf("list the node's routes: %w", err)
	}
	if err := g.markAddresses(); err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	return g.links, nil
}

// dumpLinks asks without RTEXT_FILTER_VF, which the library's own list sets: every PF would be asked for all of its VFs,
// and answers that are too long for an attribute are cut off.
func dumpLinks() (links []netlink.Link, err error) {
	err = retryDump(func() error {
		links = nil
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		messages, failed := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if failed != nil {
			return failed
		}
		for _, m := range messages {
			link, failed := netlink.LinkDeserialize(nil, m)
			if failed != nil {
				return failed
			}
			links = append(links, link)
		}
		return nil
	})
	return links, err
}

// retryDump repeats a dump that a change interrupted, for such an answer may lack what was there all the time. After ten of
// them it is an error, which wraps netlink.ErrDumpInterrupted: whoever knows an older answer stays with that and looks later.
func retryDump(dump func() error) (err error) {
	for range 10 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// A graph is the node's interfaces and which sits below which: a slave below its bond, bridge, team or VRF, the parent
// below its VLAN or macvlan.
type graph struct {
	links map[int]NodeLink
	below map[int][]int
	kinds map[int]string
	ports []int // the NICs of Open vSwitch
}

func newGraph(links []netlink.Link) *graph {
	g := &graph{links: map[int]NodeLink{}, below: map[int][]int{}, kinds: map[int]string{}}
	for _, link := range links {
		a := link.Attrs()
		g.links[a.Index] = NodeLink{Name: a.Name, AltNames: a.AltNames, Up: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_UP != 0}
		g.kinds[a.Index] = link.Type()
		if a.MasterIndex != 0 {
			g.below[a.MasterIndex] = append(g.below[a.MasterIndex], a.Index)
		}
		// With a namespace id, the parent's index is one of that other namespace.
		if a.ParentIndex != 0 && a.ParentIndex != a.Index && a.NetNsID < 0 {
			g.below[a.Index] = append(g.below[a.Index], a.ParentIndex)
		}
	}
	for _, link := range links {
		if a := link.Attrs(); g.kinds[a.MasterIndex] == openVSwitch {
			g.ports = append(g.ports, a.Index)
		}
	}
	return g
}

// mark gives the interface and everything below it a reason. Of Open vSwitch only its flows know what carries what, and its
// internal interfaces, such as br-ex with the node's address, do not say to which datapath they belong: what goes through one
// of its interfaces may go through every NIC that it has.
func (g *graph) mark(index int, reason string, set func(*NodeLink, string)) {
	seen, switched := map[int]bool{}, false
	var walk func(index int, reason string)
	walk = func(index int, reason string) {
		link, ok := g.links[index]
		if !ok || seen[index] {
			return
		}
		seen[index] = true
		set(&link, reason)
		g.links[index] = link
		for _, lower := range g.below[index] {
			walk(lower, "it is below "+link.Name+": "+reason)
		}
		if !switched && (g.kinds[index] == openVSwitch || slices.Contains(g.ports, index)) {
			switched = true
			for _, port := range g.ports {
				walk(port, "Open vSwitch switches between it and "+link.Name+": "+reason)
			}
		}
	}
	walk(index, reason)
}

const openVSwitch = "openvswitch" // the kind of its internal interfaces, of which one is the master of the NICs

func setUplink(l *NodeLink, reason string)    { l.Uplink = cmp.Or(l.Uplink, reason) }
func setAddressed(l *NodeLink, reason string) { l.Addressed = cmp.Or(l.Addressed, reason) }

// markRoutes looks at every table: a default route for policy routing or of a VRF carries the node's traffic, too.
func (g *graph) markRoutes() error {
	object := "" // why next-hop objects count, once one is named
	err := retryDump(func() error {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return netlink.RouteListFilteredIter(unix.AF_UNSPEC, all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if r.Family != unix.AF_INET && r.Family != unix.AF_INET6 {
				return true // a route of MPLS has no destination, and is no default route
			}
			if r.Type != unix.RTN_UNICAST || !isDefault(r.Dst) {
				return true
			}
			family := "IPv4"
			if r.Family == unix.AF_INET6 {
				family = "IPv6"
			}
			reason := "an " + family + " default route goes through it"
			if viaObject(r) {
				object = "an " + family + " default route names a next-hop object, as which it serves"
			}
			g.mark(r.LinkIndex, reason, setUplink)
			for _, hop := range r.MultiPath {
				g.mark(hop.LinkIndex, reason, setUplink)
			}
			return true
		})
	})
	if err != nil || object == "" {
		return err
	}
	links, err := nexthopLinks()
	for _, index := range links {
		g.mark(index, object, setUplink)
	}
	return err
}

// isDefault knows a default route in both forms in which netlink has given it: without a destination, and as 0.0.0.0/0 or
// ::/0. Two halves, as VPNs set them to win over the default route, count as well.
func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones <= 1
}

func (g *graph) markAddresses() error {
	return retryDump(func() error {
		addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		slices.SortFunc(addresses, func(a, b netlink.Addr) int { return strings.Compare(a.IPNet.String(), b.IPNet.String()) })
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() && !a.IP.IsLoopback() {
				g.mark(a.LinkIndex, "it has the address "+a.IPNet.String(), setAddressed)
			}
		}
		return nil
	})
}

// WatchNodeLinks calls changed after each change of an interface, address or route in the calling thread's network
// namespace, and after the kernel dropped messages: look then. It returns when ctx ends, without an error, or when the
// socket breaks.
func WatchNodeLinks(ctx context.Context, changed func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP)
	if err != nil {
		return fmt.Errorf("subscribe to changes of the node's interfaces: %w", err)
	}
	defer socket.Close()
	return follow(ctx, socket, changed)
}

func follow(ctx context.Context, socket *nl.NetlinkSocket, changed func()) error {
	// A receive cannot be woken by ctx: a time-out lets the loop look at it.
	if err := socket.SetReceiveTimeout(&unix.Timeval{Usec: int64(200 * time.Millisecond / time.Microsecond)}); err != nil {
		return fmt.Errorf("set time-out on the netlink socket: %w", err)
	}
	for ctx.Err() == nil {
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			changed()
		case err != nil:
			return fmt.Errorf("receive changes of the node's interfaces: %w", err)
		default:
			if slices.ContainsFunc(messages, matters) {
				changed()
			}
		}
	}
	return nil
}

// matters drops the routes that cannot make or unmake an uplink, of which a node with an overlay network sees many.
func matters(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	const prefixLength = 1 // in struct rtmsg
	return len(m.Data) <= prefixLength || m.Data[prefixLength] <= 1
}
