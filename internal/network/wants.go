package network

import (
	"cmp"
	"errors"
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
// (see NodeConfig.Namespace). The error joins one *Error for each fault.
func ParseAnnotations(pod Pod, annotations map[string]string, namespace string) (Wants, error) {
	w := Wants{Pod: pod, defaultsIn: namespace}
	networks, err := ParseSelections(annotations[NetworksAnnotation], pod.Namespace)
	if err != nil {
		return w, inAnnotation(err, pod, NetworksAnnotation)
	}
	for i := range networks {
		networks[i].Key = fmt.Sprintf("%s[%d]", NetworksAnnotation, i)
	}
	w.Networks = networks
	if value := strings.TrimSpace(annotations[DefaultNetworkAnnotation]); value != "" {
		w.Default, err = parseDefault(value, namespace)
		if err != nil {
			return w, inAnnotation(err, pod, DefaultNetworkAnnotation)
		}
	}
	return w, w.checkTogether()
}

func parseDefault(value, namespace string) (*Selection, error) {
	defaults, err := ParseSelections(value, namespace)
	if err != nil {
		return nil, err
	}
	if len(defaults) != 1 {
		return nil, problem(OneDefaultNetwork, "name one network", "a pod has one default network, this names %d", len(defaults))
	}
	s := defaults[0]
	if s.IfName != "" && s.IfName != defaultIfName {
		return nil, problem(OneDefaultNetwork, "remove the interface's name", "the default network's interface is always %s, not %s",
			defaultIfName, quote(s.IfName)).at("interface").of(Pod{}, s.Network())
	}
	s.Key = DefaultNetworkAnnotation
	return &s, nil
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
func (w Wants) checkTogether() error {
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
	return found.err()
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

// ifName is the interface's name as asked for, or else by its position; at 0 is the default network.
func (s Selection) ifName(at int) string {
	if s.IfName == "" && at > 0 {
		return fmt.Sprintf("net%d", at)
	}
	return cmp.Or(s.IfName, defaultIfName)
}

// interfaceNames gives net1, net2, … by position to those of extra that ask for none. What the node gives comes first, so the
// names are known only after Apply.
func (w Wants) interfaceNames() ([]string, *Error) {
	taken := map[string]string{defaultIfName: "the default network"}
	var names []string
	for i, s := range w.extra() {
		name := s.ifName(i + 1)
		if by, is := taken[name]; is {
			return nil, problem(InterfaceTaken, `choose another "interface", or none for net1, net2, … by position`,
				"the interface name %s is taken by %s", quote(name), by).at("interface").at(s.Key).of(w.Pod, s.Network())
		}
		taken[name] = fmt.Sprintf("network %s (%s)", s.Network(), s.Key)
		names = append(names, name)
	}
	return names, nil
}

// References lists the definitions that Plan needs, each once, sorted.
func (w Wants) References() []Reference {
	var refs []Reference
	for _, s := range w.all() {
		refs = append(refs, s.reference())
	}
	slices.SortFunc(refs, func(a, b Reference) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(refs)
}
