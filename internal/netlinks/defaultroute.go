package netlinks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrGateway means that the kernel does not reach a gateway through its interface.
var ErrGateway = errors.New("the interface does not reach the gateway")

// A Gateway is where a default route goes: to an address, through an interface.
type Gateway struct {
	IfName  string
	Address netip.Addr
}

// SetDefaultRoutes makes the default routes in the main table of the network namespace at path exactly those given, for
// IPv4 and IPv6 alike. Nothing is changed if it fails: what it had removed is put back. The routes of a family may be
// missing for about a millisecond. The error wraps ErrGateway if a gateway is out of reach.
func SetDefaultRoutes(path string, want []Gateway) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("set default routes: open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("set default routes: enter network namespace %s: %w", path, err)
	}
	defer h.Close()
	routes := make([]netlink.Route, 0, len(want))
	for _, g := range want {
		route, resolveErr := defaultRoute(h, g)
		if resolveErr != nil {
			return resolveErr
		}
		routes = append(routes, route)
	}
	before, err := defaultRoutes(h)
	if err != nil {
		return err
	}
	if err := replaceRoutes(h, before, routes); err != nil {
		now, listed := defaultRoutes(h)
		if listed != nil {
			return errors.Join(err, listed)
		}
		if back := replaceRoutes(h, now, before); back != nil {
			return errors.Join(err, fmt.Errorf("put the default routes back: %w", back))
		}
		return err
	}
	return nil
}

func replaceRoutes(h *netlink.Handle, old, now []netlink.Route) error {
	for i := range old {
		// ESRCH: deleting the first hop of an IPv6 multipath route can take the others with it.
		if err := h.RouteDel(&old[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the default route via %s: %w", old[i].Gw, err)
		}
	}
	for i := range now {
		// Append, not add: two gateways of one family are two routes of one metric.
		err := h.RouteAppend(&now[i])
		switch {
		// EINVAL is IPv6's word for a gateway that is the pod's own address, ENODEV and EACCES for an interface without IPv6.
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV),
			errors.Is(err, unix.EACCES):
			return fmt.Errorf("add a default route via %s: %w: %w", now[i].Gw, ErrGateway, err)
		case err != nil:
			return fmt.Errorf("add a default route via %s: %w", now[i].Gw, err)
		}
	}
	return nil
}

func defaultRoute(h *netlink.Handle, g Gateway) (netlink.Route, error) {
	link, err := h.LinkByName(g.IfName)
	if err != nil {
		return netlink.Route{}, fmt.Errorf("set a default route via %s: find interface %s: %w", g.Address, g.IfName, err)
	}
	any4, any6 := net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	dst := &any6
	if g.Address.Unmap().Is4() {
		dst = &any4
	}
	return netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: dst, Gw: g.Address.Unmap().AsSlice(), Table: unix.RT_TABLE_MAIN,
	}, nil
}

// defaultRoutes lists those of both families. The library has given their destination as nil and as a zero prefix, by
// its version: both count.
func defaultRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	var out []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
		var routes []netlink.Route
		err := retryDump(func() (err error) {
			routes, err = h.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			if r.Type == unix.RTN_UNICAST {
				out = append(out, r)
			}
		}
	}
	return out, nil
}
