package network

import (
	"fmt"
	"slices"
	"strings"
)

// A Policy says which namespaces' definitions a pod may use.
type Policy struct {
	// Isolated keeps pods to the definitions of their own namespace and of Global.
	Isolated bool
	// Global are the namespaces whose definitions are for everybody.
	Global []string
}

// ParseNamespaces reads a comma-separated list of namespaces. Multus writes its globalNamespaces so.
func ParseNamespaces(value string) ([]string, error) {
	list, err := parseNamespaces(value)
	if err != nil {
		return nil, err
	}
	return list, nil
}

func parseNamespaces(value string) ([]string, *Error) {
	var list []string
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if err := checkNamespace(name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, nil
}

// check refuses what the policy does not allow. The default network's override may also name a definition of the
// namespace where it looks.
func (p Policy) check(w Wants) faults {
	if !p.Isolated {
		return nil
	}
	var found faults
	refuse := func(s Selection, key string) {
		allowed := append([]string{w.Pod.Namespace}, p.Global...)
		found.add(problem(NotAllowed, fmt.Sprintf("use a definition of one of %s, or copy this one there", strings.Join(allowed, ", ")),
			"this node keeps pods to the definitions of their own namespace, and %s is not it", s.Namespace).at(key).of(w.Pod, s.Network()))
	}
	allowed := func(namespace string) bool {
		return namespace == w.Pod.Namespace || slices.Contains(p.Global, namespace)
	}
	for _, s := range w.Networks {
		if s.Name != "" && !allowed(s.Namespace) { // one that names no network is refused for that
			refuse(s, joinKey(s.Key, "namespace"))
		}
	}
	if d := w.Default; d != nil && d.Namespace != w.defaultsIn && !allowed(d.Namespace) {
		refuse(*d, d.Key)
	}
	return found
}
