package netlinks

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// ErrGateway means that the kernel does not reach a gateway through its interface: there may be none of that name, or it is down.
var ErrGateway = errors.New("the interface does not reach the gateway")

// A Gateway is where a default route goes: to an address, through an interface.
type Gateway struct {
	IfName  string
	Address netip.Addr
}

// SetDefaultRoutes makes the default routes in the main table of the network namespace at path exactly those given, for
// IPv4 and IPv6 alike, and keeps routers from adding others by their advertisements. Nothing is changed if it fails: what it
// had removed is put back. The routes of a family may be missing for about a millisecond. The error wraps ErrGateway if a
// gateway is out of reach.
func SetDefaultRoutes(path string, want []Gateway) (err error) {
	ns, err := netns.Open(path)
	if err != nil {
		return fmt.Errorf("set default routes: %w", err)
	}
	defer ns.Close()
	h, err := handleIn(ns)
	if err != nil {
		return fmt.Errorf("set default routes: %w", err)
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
	learning, err := stopLearning(ns) // first, else the next advertisement brings back what is removed here
	defer func() {
		if err != nil {
			err = errors.Join(err, learning.restore(ns))
		}
	}()
	if err != nil {
		return err
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
			err = errors.Join(err, fmt.Errorf("put the default routes back: %w", back))
		}
		return err
	}
	return nil
}

// learning has what accept_ra_defrtr was, by its file.
type learning map[string][]byte

// stopLearning switches accept_ra_defrtr off on every interface of ns: whether the kernel takes a router that advertises
// itself for a default route. It goes on with addresses and with routes to certain subnets. The setting stays with the
// interface until that leaves the namespace. What it has changed is returned with an error, too.
func stopLearning(ns *netns.Netns) (learning, error) {
	was := learning{}
	err := ns.Do(func() error { // proc shows the settings of the namespace that the opening thread is in
		files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra_defrtr")
		if err != nil {
			return err
		}
		for _, path := range files { // none in a kernel without IPv6
			if slices.Contains([]string{"all", "default", "lo"}, filepath.Base(filepath.Dir(path))) {
				continue // the first two change no interface that is there
			}
			old, err := os.ReadFile(path)
			if err == nil && string(bytes.TrimSpace(old)) != "0" {
				was[path] = old
				err = writeSetting(path, []byte("0"))
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) { // an interface may go meanwhile
				return fmt.Errorf("keep routers from setting default routes: %w", err)
			}
		}
		return nil
	})
	return was, err
}

func (l learning) restore(ns *netns.Netns) error {
	if len(l) == 0 {
		return nil
	}
	return ns.Do(func() (err error) {
		for path, old := range l {
			if bad := writeSetting(path, old); !errors.Is(bad, os.ErrNotExist) {
				err = errors.Join(err, bad)
			}
		}
		return err
	})
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
		// EINVAL is IPv6's word for a gateway that is the pod's own address, ENODEV and EACCES for an interface without IPv6, ENETDOWN
		// for one that is down.
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV),
			errors.Is(err, unix.EACCES), errors.Is(err, unix.ENETDOWN):
			return fmt.Errorf("add a default route via %s: %w: %w", now[i].Gw, ErrGateway, err)
		case err != nil:
			return fmt.Errorf("add a default route via %s: %w", now[i].Gw, err)
		}
	}
	return nil
}

func defaultRoute(h *netlink.Handle, g Gateway) (netlink.Route, error) {
	link, err := h.LinkByName(g.IfName)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		err = fmt.Errorf("%w: %w", ErrGateway, err)
	}
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
