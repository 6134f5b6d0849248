package netlinks

import (
	"cmp"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readRoutes looks at every table: a default route for policy routing or of a VRF carries the node's traffic, too.
func (g *graph) readRoutes() error {
	var routes []root
	object := "" // why next-hop objects count, once one is named
	err := retryDump(func() error {
		routes, object = nil, ""
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
			routes = append(routes, root{r.LinkIndex, reason})
			for _, hop := range r.MultiPath {
				routes = append(routes, root{hop.LinkIndex, reason})
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	if object != "" {
		links, err := nexthopLinks()
		if err != nil {
			return err
		}
		for _, index := range links {
			routes = append(routes, root{index, object})
		}
	}
	g.routes = routes
	return nil
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

func (g *graph) readAddresses() error {
	return retryDump(func() error {
		addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		g.addresses = nil
		slices.SortFunc(addresses, func(a, b netlink.Addr) int {
			return cmp.Or(strings.Compare(a.IPNet.String(), b.IPNet.String()), a.LinkIndex-b.LinkIndex)
		})
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() && !a.IP.IsLoopback() {
				g.addresses = append(g.addresses, root{a.LinkIndex, "it has the address " + a.IPNet.String()})
			}
		}
		return nil
	})
}
