package network

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultNamespace is where DefaultNetworkAnnotation looks for a definition without a namespace, unless the node's
// configuration says another, as with Multus.
const DefaultNamespace = "kube-system"

// Wants is what a pod asks for, as its annotations say it, and what the node's configuration gives it beside.
type Wants struct {
	Pod Pod
	// Default replaces the node's default network; nil keeps it.
	Default *Selection
	// Node are the networks that the node's configuration gives to this pod (see NodeConfig.Apply).
	Node []Selection
	// Networks are those that the pod asks for, in order.
	Networks []Selection

	defaultsIn string // where DefaultNetworkAnnotation looks
	badDefault bool   // Default is nil although the annotation is there
	faults     faults // what ParseAnnotations and NodeConfig.Apply found, told or not
}

// A Reference names a definition. Without a namespace it is none of the cluster's: see NodeConfig.
type Reference struct{ Namespace, Name string }

func (r Reference) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// ParseAnnotations reads what pod asks for. A definition for the default network that says no namespace is one of namespace
// (see NodeConfig.Namespace). The error joins one *Error for each fault; then Wants has what could be read, for Explain.
func ParseAnnotations(pod Pod, annotations map[string]string, namespace string) (Wants, error) {
	w := Wants{Pod: pod, defaultsIn: namespace}
	networks, found := parseSelections(annotations[NetworksAnnotation], pod.Namespace)
	for i := range networks {
		networks[i].Key = fmt.Sprintf("%s[%d]", NetworksAnnotation, i)
	}
	w.Networks, w.faults = networks, found.at(NetworksAnnotation).of(pod)
	if value := strings.TrimSpace(annotations[DefaultNetworkAnnotation]); value != "" {
		w.Default, found = parseDefault(value, namespace)
		w.badDefault = w.Default == nil
		w.faults = append(w.faults, found.at(DefaultNetworkAnnotation).of(pod)...)
	}
	w.faults = append(w.faults, w.checkTogether()...)
	return w, w.faults.err()
}

// parseDefault returns no selection if anything is wrong with it.
func parseDefault(value, namespace string) (*Selection, faults) {
	defaults, found := parseSelections(value, namespace)
	if len(found) > 0 {
		return nil, found
	}
	if len(defaults) != 1 {
		return nil, faults{problem(OneDefaultNetwork, "name one network", "a pod has one default network, this names %d", len(defaults))}
	}
	s := defaults[0]
	if s.IfName != "" && s.IfName != defaultIfName {
		return nil, faults{problem(OneDefaultNetwork, "remove the interface's name", "the default network's interface is always %s, not %s",
			defaultIfName, quote(s.IfName)).at("interface").of(Pod{}, s.Network())}
	}
	s.Key = DefaultNetworkAnnotation
	return &s, nil
}

// checkTogether holds what is wrong only with several elements, or several keys, side by side.
func (w Wants) checkTogether() faults {
	var found faults
	routes := 0
	for _, s := range w.all() {
		if s.DefaultRoute != nil {
			if routes++; routes > 1 {
				found.add(problem(TwoDefaultRoutes, "keep it on one network", "only one network can carry the pod's default route").
					at("default-route").at(s.Key).of(w.Pod, s.Network()))
			}
		}
		if s.IPAMClaim != "" && s.Capabilities["ips"] != nil {
			found.add(problem(ClaimAndIPs, "remove ips or ipam-claim-reference", "an IPAM claim holds the addresses, ips asks for others").
				at("ips").at(s.Key).of(w.Pod, s.Network()))
		}
	}
	return found
}

const defaultIfName = "eth0"

// extra lists the networks beside the default one, in order.
func (w Wants) extra() []Selection { return slices.Concat(w.Node, w.Networks) }

// all lists the selections in the order in which they take devices: the default network first.
func (w Wants) all() []Selection {
	if w.Default == nil {
		return w.extra()
	}
	return append([]Selection{*w.Default}, w.extra()...)
}

// ifName is the interface's name as asked for, or else by its position.
func (s Selection) ifName(at int) string {
	if s.IfName == "" {
		return fmt.Sprintf("net%d", at)
	}
	return s.IfName
}

// interfaceNames gives each network its interface's name, net1, net2, … by position to those that ask for none, and says why
// one cannot have the name that it has. What the node gives comes first, so the names are known only after Apply.
func (w Wants) interfaceNames() (names []string, bad []*Error) {
	all := w.all()
	names, bad = make([]string, len(all)), make([]*Error, len(all))
	taken := map[string]string{defaultIfName: "the default network"}
	for i, s := range all {
		if w.Default != nil && i == 0 {
			names[i] = defaultIfName
			continue
		}
		at := i
		if w.Default == nil {
			at++
		}
		names[i] = s.ifName(at)
		if by, is := taken[names[i]]; is {
			bad[i] = problem(InterfaceTaken, `choose another "interface", or none for net1, net2, … by position`,
				"the interface name %s is taken by %s", quote(names[i]), by).at("interface").at(s.Key).of(w.Pod, s.Network())
			continue
		}
		taken[names[i]] = s.Key
		if s.Name != "" {
			taken[names[i]] = fmt.Sprintf("network %s (%s)", s.Network(), s.Key)
		}
	}
	return names, bad
}

// References lists the definitions that Plan needs, each once, sorted.
func (w Wants) References() []Reference {
	var refs []Reference
	for _, s := range w.all() {
		if s.Name != "" { // else it is refused
			refs = append(refs, s.reference())
		}
	}
	slices.SortFunc(refs, func(a, b Reference) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(refs)
}
