package explain

import (
	"errors"
	"fmt"
	"io"

	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

// A Node is what counts of the node that a pod would run on.
type Node struct {
	Config   *network.NodeConfig
	Networks ondisk.Folder
}

// References are the definitions of the cluster that the pod's networks need, as far as these can be read.
func (n Node) References(p Pod) []network.Reference {
	if p.HostNetwork {
		return nil
	}
	wants, _ := n.wants(p)
	var refs []network.Reference
	for _, ref := range wants.References() {
		if ref.Namespace != "" {
			refs = append(refs, ref)
		}
	}
	return refs
}

// wants is what the pod asks for and the node gives it; with an error, as far as that can be read.
func (n Node) wants(p Pod) (network.Wants, error) {
	wants, bad := network.ParseAnnotations(p.Pod, p.Annotations, n.Config.Namespace)
	wants, err := n.Config.Apply(wants)
	if bad != nil { // the agent looks no further; what Apply found is told of each network
		err = bad
	}
	return wants, err
}

// Explain writes what the pod would get, network by network. The error says why it would not start, in the agent's words;
// then each network has the reason why it is refused, or what it would be once the others are mended.
func (n Node) Explain(w io.Writer, p Pod, definitions map[network.Reference]*network.Definition) error {
	if p.HostNetwork {
		return line(w, "pod %s/%s shares the node's own network (hostNetwork: true): it gets no other, whatever its annotations say", p.Namespace, p.Name)
	}
	wants, refused := n.wants(p)
	found := map[network.Reference]*network.Definition{}
	for _, ref := range wants.References() {
		var err error
		if found[ref], err = n.definition(ref, definitions[ref]); err != nil {
			return err
		}
	}
	if refused == nil {
		_, refused = wants.Plan(found, p.Devices)
	}
	out := []error{refused}
	if refused == nil {
		out = append(out, line(w, "pod %s/%s", p.Namespace, p.Name))
	} else {
		out = append(out, line(w, "pod %s/%s would not start; its networks, one by one:", p.Namespace, p.Name))
	}
	for i, e := range wants.Explain(found, p.Devices) {
		if i == 0 && wants.Default == nil && n.Config.HasDefault() {
			e.Reasons = append(e.Reasons, fmt.Sprintf("it is what the node's configuration names: %s", n.Config.DefaultReference()))
		}
		out = append(out, line(w, "%-15s %s", e.IfName, e.Network))
		for _, reason := range e.Reasons {
			out = append(out, line(w, "%-15s - %s", "", reason))
		}
	}
	return errors.Join(out...)
}

func line(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// definition adds what the node's disk and its configuration have.
func (n Node) definition(ref network.Reference, d *network.Definition) (*network.Definition, error) {
	switch {
	case ref.Namespace == "" && n.Config.Delegate(ref) != nil:
		return n.Config.Delegate(ref), nil
	case ref.Namespace == "":
		return ondisk.At(ref.Name)
	case d == nil && n.Config.Names(ref):
		return n.Networks.Named(ref.Name)
	case d != nil && d.OnDisk():
		return n.Networks.Complete(d)
	}
	return d, nil
}
