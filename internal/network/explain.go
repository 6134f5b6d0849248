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

// Explain tells of each interface of plan, which Plan made of definitions, where it comes from. The default network is the
// first; of one that is the node's own, not more is known here.
func (w Wants) Explain(definitions map[Reference]*Definition, plan *Plan) []Explanation {
	var out []Explanation
	attachments := plan.Attachments
	if w.Default == nil {
		out = append(out, Explanation{IfName: defaultIfName, Network: "the node's default network", Reasons: []string{
			"no annotation " + DefaultNetworkAnnotation + " names another",
		}})
	} else {
		attachments = append([]Attachment{*plan.Default}, attachments...)
	}
	for i, s := range w.all() {
		out = append(out, explain(s, definitions[s.reference()], attachments[i]))
	}
	return out
}

// ExplainRefused is Explain for what Plan refuses: each network by itself, with what the pod has of devices in turn, and those
// that are refused by themselves with the reason. What is wrong only with several side by side is in Plan's error.
func (w Wants) ExplainRefused(definitions map[Reference]*Definition, devices map[string][]string) []Explanation {
	var out []Explanation
	left := map[string][]string{}
	for resource, ids := range devices {
		left[resource] = slices.Sorted(slices.Values(ids))
	}
	one := Wants{Pod: w.Pod, Default: w.Default}
	if w.Default == nil {
		out = one.Explain(nil, &Plan{})
	}
	for i, s := range w.all() {
		at := i
		if w.Default == nil {
			at++
		}
		name := s.ifName(at)
		plan, err := Wants{Pod: w.Pod, Networks: []Selection{s}}.Plan(definitions, left)
		if err != nil {
			out = append(out, Explanation{IfName: name, Network: s.Network(), Reasons: []string{"refused: " + err.Error()}})
			continue
		}
		a := plan.Attachments[0]
		if a.Device != nil {
			left[a.Device.Resource] = slices.DeleteFunc(left[a.Device.Resource], func(id string) bool { return id == a.Device.ID })
		}
		a.IfName, a.IsDefault = name, at == 0
		out = append(out, explain(s, definitions[s.reference()], a))
	}
	return out
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
