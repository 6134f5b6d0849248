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

// References are the definitions of the cluster that the pod's networks need.
func (n Node) References(p Pod) ([]network.Reference, error) {
	wants, err := n.wants(p)
	if err != nil {
		return nil, err
	}
	var refs []network.Reference
	for _, ref := range wants.References() {
		if ref.Namespace != "" {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

func (n Node) wants(p Pod) (network.Wants, error) {
	wants, err := network.ParseAnnotations(p.Pod, p.Annotations, n.Config.Namespace)
	if err != nil {
		return wants, err
	}
	return n.Config.Apply(wants)
}

// Explain writes what the pod would get, network by network. The error says why it would not start; then what is written is
// each network by itself, with the reason at those that are refused.
func (n Node) Explain(w io.Writer, p Pod, definitions map[network.Reference]*network.Definition) error {
	wants, err := n.wants(p)
	if err != nil {
		return err
	}
	found := map[network.Reference]*network.Definition{}
	for _, ref := range wants.References() {
		if found[ref], err = n.definition(ref, definitions[ref]); err != nil {
			return err
		}
	}
	plan, refused := wants.Plan(found, p.Devices)
	var explanations []network.Explanation
	out := []error{refused}
	if refused == nil {
		explanations = wants.Explain(found, plan)
		out = append(out, line(w, "pod %s/%s", p.Namespace, p.Name))
	} else {
		explanations = wants.ExplainRefused(found, p.Devices)
		out = append(out, line(w, "pod %s/%s would not start; each of its networks by itself:", p.Namespace, p.Name))
	}
	for i, e := range explanations {
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
