package netlinks

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// An Interface is one in a pod's namespace.
type Interface struct {
	Index int
	Name  string
	MAC   net.HardwareAddr
	// HasCarrier tells whether it can send now.
	HasCarrier func() (bool, error)
}

// Configure gives an interface in ns its addresses and routes. The interface has to be up. A route without a gateway of its
// own goes through the gateway that an address of its family came with. IPv6 addresses work at once: the second or two of
// duplicate address detection are not waited for.
func Configure(ns *netns.Netns, i Interface, ips []*types100.IPConfig, routes []*types.Route) error {
	h, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	ifName := i.Name
	// By its index alone: the library's own look-up asks a driver for all of its VFs.
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: i.Index, Name: ifName}}
	if hasIPv6(ips) {
		// A container's default may be off, and then the kernel refuses the address with EACCES.
		if err := setSysctl(ns, "ipv6", ifName, "disable_ipv6", "0"); err != nil {
			return fmt.Errorf("switch IPv6 on for %s: %w", ifName, err)
		}
	}
	for _, ip := range ips {
		address := &netlink.Addr{IPNet: &ip.Address}
		if ip.Address.IP.To4() == nil {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrReplace(link, address); err != nil {
			return fmt.Errorf("give %s the address %v: %w", ifName, &ip.Address, err)
		}
	}
	for _, r := range routes {
		// Not in place of one: the pod may have the same route, such as the default one, through another interface. As with the IPAM
		// library of the reference plugins, IPv4 takes the new one first and IPv6 both.
		if err := h.RouteAddEcmp(kernelRoute(link, r, ips)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the route to %v by %v through %s: %w", &r.Dst, r.GW, ifName, err)
		}
	}
	return nil
}

func handleIn(ns *netns.Netns) (h *netlink.Handle, err error) {
	err = ns.Do(func() error {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket in %s: %w", ns.Path(), err)
	}
	return h, nil
}

func hasIPv6(ips []*types100.IPConfig) bool {
	for _, ip := range ips {
		if ip.Address.IP.To4() == nil {
			return true
		}
	}
	return false
}

func kernelRoute(link netlink.Link, r *types.Route, ips []*types100.IPConfig) *netlink.Route {
	gateway := r.GW
	if gateway == nil {
		gateway = gatewayFor(r.Dst.IP, ips)
	}
	k := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: &r.Dst, Gw: gateway, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority,
		Scope: netlink.SCOPE_UNIVERSE,
	}
	if gateway == nil {
		k.Scope = netlink.SCOPE_LINK
	}
	if r.Table != nil {
		k.Table = *r.Table
	}
	if r.Scope != nil {
		k.Scope = netlink.Scope(*r.Scope)
	}
	return k
}

func gatewayFor(dst net.IP, ips []*types100.IPConfig) net.IP {
	for _, ip := range ips {
		if ip.Gateway != nil && (ip.Gateway.To4() == nil) == (dst.To4() == nil) {
			return ip.Gateway
		}
	}
	return nil
}

// setSysctl writes a per-interface setting of ns. proc shows the settings of the namespace that the opening thread is in.
func setSysctl(ns *netns.Netns, family, ifName, key, value string) error {
	// An interface name may hold a dot, not a slash: as a path, unlike as a sysctl name, it is unambiguous.
	path := filepath.Join("/proc/sys/net", family, "conf", ifName, key)
	return ns.Do(func() error { return netns.WriteSetting(path, []byte(value)) })
}

// Check tells which of the addresses and routes that Configure gave the interface are not there any more.
func Check(ns *netns.Netns, ifName string, ips []*types100.IPConfig, routes []*types.Route) error {
	h, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("find interface %s in %s: %w", ifName, ns.Path(), err)
	}
	var have []netlink.Addr
	err = retryDump(func() (err error) {
		have, err = h.AddrList(link, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", ifName, err)
	}
	present := map[string]bool{}
	for _, a := range have {
		present[a.IPNet.String()] = true
	}
	var errs []error
	for _, ip := range ips {
		if !present[ip.Address.String()] {
			errs = append(errs, fmt.Errorf("address %v is missing on %s", &ip.Address, ifName))
		}
	}
	for _, r := range routes {
		k := kernelRoute(link, r, ips)
		var found []netlink.Route
		err := retryDump(func() (err error) {
			found, err = h.RouteListFiltered(netlink.FAMILY_ALL, k, netlink.RT_FILTER_DST|netlink.RT_FILTER_GW|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list the routes through %s: %w", ifName, err))
		} else if len(found) == 0 {
			errs = append(errs, fmt.Errorf("the route to %v by %v is missing on %s", &r.Dst, k.Gw, ifName))
		}
	}
	return errors.Join(errs...)
}
