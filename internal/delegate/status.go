package delegate

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

// networkStatus is one element of the annotation k8s.v1.cni.cncf.io/network-status. Its ips carry no prefix length.
type networkStatus struct {
	Name       string          `json:"name"`
	Interface  string          `json:"interface,omitempty"`
	IPs        []string        `json:"ips,omitempty"`
	MAC        string          `json:"mac,omitempty"`
	MTU        int             `json:"mtu,omitempty"`
	Default    bool            `json:"default"` // the standard has it in every element
	DNS        types.DNS       `json:"dns"`
	DeviceInfo json.RawMessage `json:"device-info,omitempty"`
	Gateway    []string        `json:"gateway,omitempty"` // where the pod's default route goes, if it goes through here
}

// NetworkStatus is the value of the pod's network-status annotation: one element per interface that the plugins say they
// put into the sandbox. It needs a record whose phase is Added.
func (r *Record) NetworkStatus() ([]byte, error) {
	asked := slices.ContainsFunc(r.Attachments, func(a Attached) bool { return a.DefaultRoute != nil })
	out := []networkStatus{}
	for i := range r.Attachments {
		a := &r.Attachments[i]
		chain, err := ParseChain(a.Config)
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", a.Name, err)
		}
		result, err := cni.ReadCurrent(a.Result, chain.CNIVersion)
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", a.Name, err)
		}
		status := a.status(result)
		gateways := resultGateways(result)
		if asked {
			gateways = nil // what the plugins set has given way to what was asked for
		}
		if a.DefaultRoute != nil {
			if gateways, err = a.gateways(); err != nil {
				return nil, err
			}
		}
		for _, g := range gateways {
			status[0].Gateway = append(status[0].Gateway, g.String())
		}
		out = append(out, status...)
	}
	data, err := json.MarshalIndent(out, "", "    ")
	if err != nil {
		return nil, fmt.Errorf("encode network-status: %w", err)
	}
	return data, nil
}

// status describes one attachment, at least by one element.
func (a *Attached) status(result *types100.Result) []networkStatus {
	var out []networkStatus
	for i, iface := range result.Interfaces {
		if iface.Sandbox == "" {
			continue // a bridge, or the host's end of a veth pair
		}
		out = append(out, networkStatus{
			Name: a.Name, Interface: iface.Name, MAC: iface.Mac, MTU: iface.Mtu, IPs: addresses(result, i, len(out) == 0),
		})
	}
	if len(out) == 0 { // results before 0.3.0 know no interfaces, and some plugins make none
		out = []networkStatus{{Name: a.Name, Interface: a.IfName, IPs: addresses(result, -1, true)}}
	}
	out[0].DNS, out[0].DeviceInfo, out[0].Default = result.DNS, a.DeviceInfo, a.IsDefault
	return out
}

// addresses are those of interface i, and those that name none in the sandbox if others is set.
func addresses(result *types100.Result, i int, others bool) []string {
	var out []string
	for _, ip := range result.IPs {
		named := ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(result.Interfaces) &&
			result.Interfaces[*ip.Interface].Sandbox != ""
		if named && *ip.Interface == i || !named && others {
			out = append(out, ip.Address.IP.String())
		}
	}
	return out
}
