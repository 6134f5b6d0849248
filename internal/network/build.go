package network

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DefaultNamespace is where DefaultNetworkAnnotation looks for a definition without a namespace, as Multus does.
const DefaultNamespace = "kube-system"

// Wants is what a pod asks for, as its annotations say it.
type Wants struct {
	Pod Pod
	// Default replaces the node's default network; nil keeps it.
	Default *Selection
	// Networks are the others, in order.
	Networks []Selection
}

// A Reference names a definition.
type Reference struct{ Namespace, Name string }

func (r Reference) String() string { return r.Namespace + "/" + r.Name }

// ParseAnnotations reads what pod asks for. The error joins one *Error for each fault.
func ParseAnnotations(pod Pod, annotations map[string]string) (Wants, error) {
	w := Wants{Pod: pod}
	networks, err := ParseSelections(annotations[NetworksAnnotation], pod.Namespace)
	if err == nil {
		err = checkTogether(networks)
	}
	if err != nil {
		return w, inAnnotation(err, pod, NetworksAnnotation)
	}
	w.Networks = networks
	value := strings.TrimSpace(annotations[DefaultNetworkAnnotation])
	if value == "" {
		return w, nil
	}
	defaults, err := ParseSelections(value, DefaultNamespace)
	if err == nil && len(defaults) != 1 {
		err = problem("name one network", "it names %d networks", len(defaults))
	}
	if err == nil && defaults[0].IfName != "" && defaults[0].IfName != defaultIfName {
		err = problem("remove it", "the default network's interface is always %s", defaultIfName).at("interface")
	}
	if err != nil {
		return w, inAnnotation(err, pod, DefaultNetworkAnnotation)
	}
	w.Default = &defaults[0]
	return w, nil
}

// inAnnotation puts the pod and the annotation into each error below err.
func inAnnotation(err error, pod Pod, annotation string) error {
	var list []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	} else {
		list = []error{err}
	}
	for i, one := range list {
		if e, ok := errors.AsType[*Error](one); ok {
			list[i] = e.at(annotation).of(pod, "")
		}
	}
	return errors.Join(list...)
}

// checkTogether holds what is wrong only with several elements, or several keys, side by side.
func checkTogether(networks []Selection) error {
	var faults faults
	routes := 0
	for i, s := range networks {
		at := fmt.Sprintf("[%d]", i)
		if s.DefaultRoute != nil {
			if routes++; routes > 1 {
				faults.add(problem("keep it on one network", "only one network can carry the pod's default route").at("default-route").at(at).of(Pod{}, s.Network()))
			}
		}
		if s.IPAMClaim != "" && s.Capabilities["ips"] != nil {
			faults.add(problem("remove ips or ipam-claim-reference", "an IPAM claim holds the addresses, ips asks for others").at("ips").at(at).of(Pod{}, s.Network()))
		}
	}
	_, err := interfaceNames(networks)
	faults.add(err)
	return faults.err()
}

const defaultIfName = "eth0"

// interfaceNames gives net1, net2, … by position to those that ask for none.
func interfaceNames(networks []Selection) ([]string, *Error) {
	taken := map[string]string{defaultIfName: "the default network"}
	names := make([]string, len(networks))
	for i, s := range networks {
		name := s.IfName
		if name == "" {
			name = fmt.Sprintf("net%d", i+1)
		}
		if by, is := taken[name]; is {
			return nil, problem(`choose another "interface", or none for net1, net2, … by position`,
				"the interface name %s is taken by %s", quote(name), by).at("interface").at(fmt.Sprintf("[%d]", i)).of(Pod{}, s.Network())
		}
		taken[name] = fmt.Sprintf("network %s, element [%d]", s.Network(), i)
		names[i] = name
	}
	return names, nil
}

// None reports whether the pod asks for nothing beside the node's default network.
func (w Wants) None() bool { return w.Default == nil && len(w.Networks) == 0 }

// References lists the definitions that Plan needs, each once, sorted.
func (w Wants) References() []Reference {
	var refs []Reference
	for _, s := range w.all() {
		refs = append(refs, Reference{s.Namespace, s.Name})
	}
	slices.SortFunc(refs, func(a, b Reference) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(refs)
}

// all lists the selections in the order in which they take devices: the default network first.
func (w Wants) all() []Selection {
	if w.Default == nil {
		return w.Networks
	}
	return append([]Selection{*w.Default}, w.Networks...)
}

// Plan makes the plan out of the definitions that References named and the device ids, by resource, that the kubelet gave
// to the pod. It is the same plan whatever the order of the ids. The error is an *Error.
func (w Wants) Plan(definitions map[Reference]*Definition, devices map[string][]string) (*Plan, error) {
	all := w.all()
	defs := make([]*Definition, len(all))
	for i, s := range all {
		d, err := w.definition(s, definitions)
		if err != nil {
			return nil, err
		}
		defs[i] = d
	}
	ids, bad := assignDevices(all, defs, devices)
	if bad != nil {
		return nil, bad.of(w.Pod, "")
	}
	names, bad := interfaceNames(w.Networks)
	if bad != nil {
		return nil, bad.of(w.Pod, "")
	}
	plan := &Plan{Pod: w.Pod}
	size := 0
	for i, s := range all {
		a, err := attach(s, defs[i], ids[i])
		if err != nil {
			return nil, err.of(w.Pod, s.Network())
		}
		if size += len(a.Config); size > MaxPlan {
			return nil, problem("ask for fewer networks, or shorten their definitions",
				"the configurations of the pod's networks have more than %d bytes together", MaxPlan).of(w.Pod, s.Network())
		}
		if w.Default != nil && i == 0 {
			a.IfName, a.IsDefault = defaultIfName, true
			plan.Default = &a
			continue
		}
		a.IfName = names[len(plan.Attachments)]
		plan.Attachments = append(plan.Attachments, a)
	}
	return plan, nil
}

func (w Wants) definition(s Selection, definitions map[Reference]*Definition) (*Definition, error) {
	d := definitions[Reference{s.Namespace, s.Name}]
	if d == nil {
		return nil, problem(fmt.Sprintf("create it, or write namespace/name if it is in another namespace than %s", s.Namespace),
			"there is no NetworkAttachmentDefinition %s", s.Network()).of(w.Pod, s.Network())
	}
	if e, ok := errors.AsType[*Error](d.Err); ok {
		return nil, e.of(w.Pod, s.Network())
	}
	if d.OnDisk() {
		return nil, problem("give it a spec.config, or put a file with that name in its \"name\" key on the node",
			"the definition has no spec.config, and no configuration file on this node is named %s", quote(s.Name)).of(w.Pod, s.Network())
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
				return a, err.at(fmt.Sprintf("plugins[%d]", i))
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
// capability: there the values also travel as MAC= and IP= in CNI_ARGS, which these read. They read runtimeConfig too.
// ovn-k8s-cni-overlay reads the pod's annotation itself.
var takesUndeclared = map[string][]string{
	"mac": {"sriov", "bridge", "macvlan", "tap", "tuning", "ovn-k8s-cni-overlay"},
	"ips": {"host-local", "static", "ovn-k8s-cni-overlay"},
	// ib-sriov takes its GUID from runtimeConfig and from CNI_ARGS.
	"infinibandGUID": {"ib-sriov"},
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
			names := takesUndeclared[capability]
			if !slices.Contains(names, p.typ) && (capability != "ips" || !slices.Contains(names, p.ipam)) {
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
			var types []string
			for _, p := range plugins {
				types = append(types, p.typ)
			}
			key := keyOfCapability[capability]
			return nil, false, problem(
				fmt.Sprintf(`add "capabilities": {%q: true} to the plugin in the definition that takes it, or remove %s from the pod's annotation`, capability, key),
				"no plugin of this network (%s) declares that it takes %s", strings.Join(types, ", "), key).at(key)
		}
	}
	return out, changed, nil
}
