package delegate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/defaultroute"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// setDefaultRoutes makes the pod's default routes exactly those that its attachments ask for. If none asks, they are what
// the plugins made them.
func setDefaultRoutes(rec *Record) error {
	var want []defaultroute.Gateway
	asked := ""
	for i := range rec.Attachments {
		a := &rec.Attachments[i]
		if a.DefaultRoute == nil {
			continue
		}
		asked = a.Name
		gateways, err := a.gateways()
		if e, ok := errors.AsType[*network.Error](err); ok {
			e.Pod = rec.Pod
		}
		if err != nil {
			return err
		}
		for _, g := range gateways {
			want = append(want, defaultroute.Gateway{IfName: a.IfName, Address: g})
		}
	}
	if asked == "" {
		return nil
	}
	err := defaultroute.Set(rec.Netns.Path, want)
	switch {
	case errors.Is(err, defaultroute.ErrGateway):
		return &network.Error{
			Reason: network.GatewayOutOfReach, Pod: rec.Pod, Network: asked, Key: "default-route", Problem: err.Error(),
			Remedy: "name a router in a subnet that the interface has an address of; a network that makes no interface, as for DPDK, can have no default-route",
		}
	case err != nil:
		return fmt.Errorf("network %s: default-route: %w", asked, err)
	}
	return nil
}

// gateways are those that the attachment's default route is to go through: named ones, or those in its own result.
func (a *Attached) gateways() ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range a.DefaultRoute {
		g, err := netip.ParseAddr(s)
		if err != nil {
			return nil, invalid("network %s: default-route: %q is no IP address", a.Name, s)
		}
		out = append(out, g)
	}
	if len(out) > 0 {
		return out, nil
	}
	chain, err := ParseChain(a.Config)
	if err != nil {
		return nil, err
	}
	result, err := cni.ReadCurrent(a.Result, chain.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	if out = resultGateways(result); len(out) == 0 {
		out = addressGateways(result)
	}
	if len(out) == 0 {
		return nil, &network.Error{
			Reason: network.NoGateway, Network: a.Name, Key: "default-route",
			Problem: "it names no gateway, and the network's own plugins give none either",
			Remedy:  `name one in the pod's annotation, such as "default-route": ["192.0.2.1"], or a gateway in the network's ipam`,
		}
	}
	return out, nil
}

// resultGateways are the next hops of the result's default routes. A default route that names none goes through the
// gateway of the address of its family.
func resultGateways(result *types100.Result) []netip.Addr {
	var out []netip.Addr
	add := func(ip net.IP) {
		if g, ok := netip.AddrFromSlice(ip); ok && !slices.Contains(out, g.Unmap()) {
			out = append(out, g.Unmap())
		}
	}
	for _, route := range result.Routes {
		if route == nil || !isDefault(route) {
			continue
		}
		if route.GW != nil {
			add(route.GW)
			continue
		}
		for _, ip := range result.IPs {
			if ip.Gateway != nil && (ip.Gateway.To4() != nil) == (route.Dst.IP.To4() != nil) {
				add(ip.Gateway)
			}
		}
	}
	return out
}

// addressGateways are those of the result's addresses.
func addressGateways(result *types100.Result) []netip.Addr {
	var out []netip.Addr
	for _, ip := range result.IPs {
		if g, ok := netip.AddrFromSlice(ip.Gateway); ok && !slices.Contains(out, g.Unmap()) {
			out = append(out, g.Unmap())
		}
	}
	return out
}

// isDefault reports whether the route is one for every address of its family.
func isDefault(route *types.Route) bool {
	ones, bits := route.Dst.Mask.Size()
	return bits > 0 && ones == 0 && route.Dst.IP.IsUnspecified()
}
