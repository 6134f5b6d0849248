package network

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An Explanation says what a pod gets as one of its interfaces, and why.
type Explanation struct {
	IfName  string
	Network string
	Reasons []string // one fact and its reason each
}

// Explain tells of each interface that the pod would have where it comes from, or why it is refused, the default network
// first: of one that is the node's own, not more is known here. Each is told as Plan plans it, beside the others, with all that
// ParseAnnotations, Apply and Plan find wrong with it, also where they do not tell it.
func (w Wants) Explain(definitions map[Reference]*Definition, devices map[string][]string) []Explanation {
	var out []Explanation
	switch {
	case w.badDefault:
		out = append(out, w.refusedAt(defaultIfName, DefaultNetworkAnnotation))
	case w.Default == nil:
		out = append(out, Explanation{IfName: defaultIfName, Network: "the node's default network", Reasons: []string{
			"no annotation " + DefaultNetworkAnnotation + " names another",
		}})
	}
	for _, o := range w.outcomes(definitions, devices) {
		e := w.refusedAt(o.attachment.IfName, o.asked.Key)
		switch {
		case o.asked.Name == "": // that was its fault
		case o.err != nil:
			e.Network = o.asked.Network()
			e.refuse(o.err)
		case len(e.Reasons) > 0:
			e.Network = o.asked.Network()
		default:
			e = explain(o.asked, o.def, o.attachment)
		}
		out = append(out, e)
	}
	return out
}

// refusedAt says of the network that stands at key which of the pod's faults are about it.
func (w Wants) refusedAt(ifName, key string) Explanation {
	e := Explanation{IfName: ifName, Network: key}
	for _, fault := range w.faults {
		if fault.Key == key || strings.HasPrefix(fault.Key, key+".") || strings.HasPrefix(fault.Key, key+"[") {
			e.refuse(fault)
		}
	}
	return e
}

// refuse adds a reason that is not there yet.
func (e *Explanation) refuse(err *Error) {
	if reason := "refused: " + err.Error(); !slices.Contains(e.Reasons, reason) {
		e.Reasons = append(e.Reasons, reason)
	}
}

func explain(s Selection, d *Definition, a Attachment) Explanation {
	e := Explanation{IfName: a.IfName, Network: a.Name}
	say := func(format string, args ...any) { e.Reasons = append(e.Reasons, fmt.Sprintf(format, args...)) }
	switch {
	case s.FromNode:
		say("given by the node's configuration, %s", s.Key)
	default:
		say("asked for by %s", s.Key)
	}
	say("plugins: %s, from %s", strings.Join(d.Plugins(), ", "), d.origin)
	switch {
	case a.IsDefault:
		say("interface %s: it is the default network", a.IfName)
	case s.IfName != "":
		say("interface %s: asked for by name", a.IfName)
	default:
		say("interface %s: by position", a.IfName)
	}
	if a.Device != nil {
		say("device %s of %s: %s", a.Device.ID, a.Device.Resource, whyDevice(s, d))
	}
	for _, capability := range slices.Sorted(maps.Keys(s.Capabilities)) {
		say("%s %s: to %s", keyOfCapability[capability], s.Capabilities[capability], takers(capability, d))
	}
	if len(s.CNIArgs) > 0 {
		var keys []string
		for _, key := range slices.Sorted(maps.Keys(s.CNIArgs)) {
			keys = append(keys, keyName(key))
		}
		say("cni-args %s: to every plugin, as args.cni", strings.Join(keys, ", "))
	}
	if s.IPAMClaim != "" {
		say("ipam-claim-reference %s: to every plugin, as args.cni", s.IPAMClaim)
	}
	switch {
	case s.DefaultRoute == nil:
	case len(s.DefaultRoute) == 0:
		say("the pod's default routes: here, by the gateways that the network's plugins give, and nowhere else")
	default:
		say("the pod's default routes: here, by %s, and nowhere else", strings.Join(s.DefaultRoute, " and "))
	}
	return e
}

func whyDevice(s Selection, d *Definition) string {
	switch {
	case s.DeviceID != "":
		return "the annotation names it"
	case d.Resource != "":
		return "the next that the pod has of the resource in the definition's annotation " + ResourceAnnotation
	}
	return "the definition names it"
}

// takers names the plugins that a value goes to, and why.
func takers(capability string, d *Definition) string {
	var declared, known []string
	for _, p := range d.plugins {
		if p.capabilities[capability] {
			declared = append(declared, p.typ)
		} else if takes(p, capability) {
			known = append(known, p.typ)
		}
	}
	if declared != nil {
		return strings.Join(declared, " and ") + ", which declares the capability " + capability
	}
	return strings.Join(known, " and ") + ", which is known to take it undeclared"
}
