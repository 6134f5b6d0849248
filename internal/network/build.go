package network

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Plan makes the plan out of the definitions that References named and the device ids, by resource, that the kubelet gave
// to the pod. It is the same plan whatever the order of the ids. The error is the *Error of the first network that has one;
// those of definitions come first.
func (w Wants) Plan(definitions map[Reference]*Definition, devices map[string][]string) (*Plan, error) {
	if err := w.CheckDefinitions(definitions); err != nil {
		return nil, err
	}
	plan := &Plan{Pod: w.Pod}
	for _, o := range w.outcomes(definitions, devices) {
		if o.err != nil {
			return nil, o.err
		}
		if o.attachment.IsDefault {
			plan.Default = &o.attachment
			continue
		}
		plan.Attachments = append(plan.Attachments, o.attachment)
	}
	return plan, nil
}

// An outcome is what becomes of one network that is asked for: an attachment, or why there is none.
type outcome struct {
	asked      Selection
	def        *Definition // nil if there is none, or none that can be used
	attachment Attachment
	err        *Error
}

// outcomes plans all networks side by side. One that is refused takes its name and its device all the same: with the fault
// mended, the others get what they get here.
func (w Wants) outcomes(definitions map[Reference]*Definition, devices map[string][]string) []outcome {
	all := w.all()
	out := make([]outcome, len(all))
	defs := make([]*Definition, len(all))
	for i, s := range all {
		out[i].asked = s
		out[i].def, out[i].err = w.definition(s, definitions)
		defs[i] = out[i].def
	}
	ids, bad := assignDevices(all, defs, devices)
	names, taken := w.interfaceNames()
	size := 0
	for i := range out {
		o := &out[i]
		if o.err == nil && bad[i] != nil {
			o.err = bad[i].of(w.Pod, "")
		}
		if o.err == nil {
			o.err = taken[i]
		}
		if o.err == nil && size <= MaxPlan { // above it, no more memory is spent
			o.attachment, o.err = attach(o.asked, o.def, ids[i])
			o.err = o.err.of(w.Pod, o.def.Network())
			size += len(o.attachment.Config)
		}
		if o.err == nil && size > MaxPlan {
			o.err = problem(TooLong, "ask for fewer networks, or shorten their definitions",
				"the configurations of the pod's networks have more than %d bytes together", MaxPlan).at(o.asked.Key).of(w.Pod, o.asked.Network())
		}
		o.attachment.IfName, o.attachment.IsDefault = names[i], w.Default != nil && i == 0
	}
	return out
}

// CheckDefinitions says of the first network without a definition that can be used why that is so. The error is an *Error.
func (w Wants) CheckDefinitions(definitions map[Reference]*Definition) error {
	for _, s := range w.all() {
		if _, err := w.definition(s, definitions); err != nil {
			return err
		}
	}
	return nil
}

func (w Wants) definition(s Selection, definitions map[Reference]*Definition) (*Definition, *Error) {
	d := definitions[s.reference()]
	switch {
	case d == nil && s.FromNode:
		return nil, problem(NoNodeNetwork, "create the one or the other, or mend the name in the node's configuration",
			"there is neither a NetworkAttachmentDefinition %s nor a configuration of that name in the node's folder of networks", s.Network()).
			at(s.Key).of(w.Pod, s.Network())
	case d == nil:
		return nil, problem(NoDefinition, fmt.Sprintf("create it, or write namespace/name if it is in another namespace than %s", s.Namespace),
			"there is no NetworkAttachmentDefinition %s", s.Network()).at(s.Key).of(w.Pod, s.Network())
	}
	if e, ok := errors.AsType[*Error](d.Err); ok {
		return nil, e.of(w.Pod, s.Network())
	}
	if d.OnDisk() {
		return nil, problem(NoConfig, `give it a spec.config, or put a file with that name in its "name" key into the node's folder of networks`,
			"the definition has no spec.config, and no configuration file on this node is named %s", quote(s.Name)).
			at("spec.config").of(w.Pod, s.Network())
	}
	return d, nil
}

// attach renders one network for one pod.
func attach(s Selection, d *Definition, device *Device) (Attachment, *Error) {
	a := Attachment{Name: d.Network(), Config: d.config, Capabilities: maps.Clone(s.Capabilities), Device: device, DefaultRoute: s.DefaultRoute}
	plugins, changed, err := declareCapabilities(s, d.plugins)
	if err != nil {
		return a, err
	}
	if rates := s.Capabilities["bandwidth"]; rates != nil && slices.ContainsFunc(plugins, readsBandwidth) {
		if err := checkBursts(rates); err != nil {
			return a, err.at("bandwidth").at(s.Key)
		}
	}
	args := s.CNIArgs
	if s.IPAMClaim != "" {
		args = maps.Clone(args)
		if args == nil {
			args = object{}
		}
		args["ipam-claim-reference"] = encode(s.IPAMClaim)
	}
	if device != nil {
		if a.Capabilities == nil {
			a.Capabilities = object{}
		}
		a.Capabilities["deviceID"] = encode(device.ID)
	}
	if device == nil && len(args) == 0 && !changed {
		return a, nil
	}
	for i := range plugins {
		conf := maps.Clone(plugins[i].conf)
		if device != nil {
			conf["deviceID"], conf["pciBusID"] = encode(device.ID), encode(device.ID)
		}
		if len(args) > 0 {
			if err := mergeArgs(conf, args); err != nil {
				return a, err.at(plugins[i].key).at(d.key)
			}
		}
		plugins[i].conf = conf
	}
	a.Config = render(d.list, plugins)
	return a, nil
}

// mergeArgs puts the pod's cni-args over the definition's own.
func mergeArgs(conf, args object) *Error {
	outer, inner := object{}, object{}
	var err *Error
	if raw, ok := conf["args"]; ok && !isNull(raw) {
		if outer, err = decodeObject(raw); err != nil {
			return err.at("args")
		}
	}
	if raw, ok := outer["cni"]; ok && !isNull(raw) {
		if inner, err = decodeObject(raw); err != nil {
			return err.at("args.cni")
		}
	}
	maps.Copy(inner, args)
	outer["cni"] = encode(inner)
	conf["args"] = encode(outer)
	return nil
}

// takesUndeclared are the plugins that Multus' users give a MAC or addresses without the definition declaring the
// capability: there the values also travel as MAC= and IP= in CNI_ARGS, which these read. They read runtimeConfig too,
// but for ovs, which gets its MAC in CNI_ARGS, and whereabouts, which gets addresses there (see internal/delegate).
// ovn-k8s-cni-overlay reads the pod's annotation itself.
func takesUndeclared(capability string) []string {
	switch capability {
	case "mac":
		return []string{"sriov", "accelerated-bridge", "bridge", "macvlan", "ovs", "tap", "tuning", "ovn-k8s-cni-overlay"}
	case "ips":
		return []string{"host-local", "static", "whereabouts", "ovn-k8s-cni-overlay"}
	case "infinibandGUID":
		return []string{"ib-sriov"} // from runtimeConfig and from CNI_ARGS
	}
	return nil
}

// takes reports whether the plugin, or its IPAM plugin, is known to take a value that it does not declare.
func takes(p plugin, capability string) bool {
	names := takesUndeclared(capability)
	return slices.Contains(names, p.typ) || (capability == "ips" && slices.Contains(names, p.ipam))
}

// declareCapabilities checks that some plugin of the chain takes each value that the pod asks for, and declares it where
// a plugin takes it undeclared. The plugins come back as a copy.
func declareCapabilities(s Selection, plugins []plugin) (out []plugin, changed bool, err *Error) {
	out = slices.Clone(plugins)
	for _, capability := range slices.Sorted(maps.Keys(s.Capabilities)) {
		if slices.ContainsFunc(plugins, func(p plugin) bool { return p.capabilities[capability] }) {
			continue
		}
		taken := false
		for i, p := range out {
			if !takes(p, capability) {
				continue
			}
			p.capabilities = maps.Clone(p.capabilities)
			if p.capabilities == nil {
				p.capabilities = map[string]bool{}
			}
			p.capabilities[capability] = true
			p.conf = maps.Clone(p.conf)
			p.conf["capabilities"] = encode(p.capabilities)
			out[i], taken, changed = p, true, true
		}
		if !taken {
			types := (&Definition{plugins: plugins}).Plugins()
			key := keyOfCapability[capability]
			return nil, false, problem(NoCapability,
				fmt.Sprintf(`add "capabilities": {%q: true} to the plugin in the definition that takes it, or remove %s from the pod's annotation`, capability, key),
				"no plugin of this network (%s) declares that it takes %s", strings.Join(types, ", "), key).at(key).at(s.Key)
		}
	}
	return out, changed, nil
}
