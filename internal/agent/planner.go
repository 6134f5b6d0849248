package agent

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

// A Planner answers which networks a sandbox gets.
type Planner struct {
	Kube    *Kube
	Kubelet *Kubelet
	// OnDisk finds the configuration of a definition that has none of its own.
	OnDisk ondisk.Folder
	// Node is what the node allows to pods, and what it gives them.
	Node *network.NodeConfig
}

// Plan makes one sandbox's plan. The error is an *agentapi.Error.
func (p *Planner) Plan(ctx context.Context, ask agentapi.Plan) (*network.Plan, error) {
	plan, err := p.plan(ctx, ask)
	if err != nil {
		return nil, refusal(err)
	}
	return plan, nil
}

func (p *Planner) plan(ctx context.Context, ask agentapi.Plan) (*network.Plan, error) {
	annotations := ask.Annotations
	if annotations == nil {
		var err error
		if annotations, _, err = p.Kube.Pod(ctx, ask.Pod); err != nil {
			return nil, err
		}
	}
	wants, err := network.ParseAnnotations(ask.Pod, annotations, p.Node.Namespace)
	if err != nil {
		return nil, err
	}
	if wants, err = p.Node.Apply(wants); err != nil {
		return nil, err
	}
	definitions, err := p.definitions(ctx, wants.References())
	if err != nil {
		return nil, err
	}
	if err := wants.CheckDefinitions(definitions); err != nil {
		return nil, err // the kubelet need not be asked: it answers few questions a second
	}
	var devices map[string][]string
	if wants.NeedsDevices(definitions) {
		if devices, err = p.Kubelet.Devices(ctx, ask.Pod); err != nil {
			return nil, err
		}
	}
	return wants.Plan(definitions, devices)
}

// definitions fetches what is not cached side by side: a slow API server then costs one round trip.
func (p *Planner) definitions(ctx context.Context, refs []network.Reference) (map[network.Reference]*network.Definition, error) {
	found := make([]*network.Definition, len(refs))
	g, ctx := errgroup.WithContext(ctx)
	for i, ref := range refs {
		g.Go(func() (err error) {
			found[i], err = p.definition(ctx, ref)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	byRef := make(map[network.Reference]*network.Definition, len(refs))
	for i, ref := range refs {
		byRef[ref] = found[i]
	}
	return byRef, nil
}

// definition finds one: in the cluster, on the node's disk, or in its configuration; nil if there is none.
func (p *Planner) definition(ctx context.Context, ref network.Reference) (*network.Definition, error) {
	if ref.Namespace == "" {
		if d := p.Node.Delegate(ref); d != nil {
			return d, nil
		}
		return ondisk.At(ref.Name)
	}
	// Every pod gets what the node's configuration names, so where the informer knows all, what it lacks is not asked for: it is on
	// disk. While it does not, what is there needs no API server either.
	named := p.Node.Names(ref)
	d, known := p.Kube.cachedDefinition(ref)
	var err error
	if d == nil && (!named || !known) {
		d, err = p.Kube.Definition(ctx, ref)
	}
	switch {
	case d == nil && named:
		here, missing := p.OnDisk.Named(ref.Name)
		if err != nil && (missing != nil || here == nil) {
			return nil, err
		}
		return here, missing
	case d != nil && d.OnDisk():
		return p.OnDisk.Complete(d)
	}
	return d, err
}

// defaultNetwork is the one that the node's configuration names.
func (p *Planner) defaultNetwork(ctx context.Context) (cniconf.Default, error) {
	d, err := p.definition(ctx, p.Node.DefaultReference())
	if err != nil {
		return cniconf.Default{}, err
	}
	if err := p.Node.CheckDefault(d); err != nil {
		return cniconf.Default{}, err
	}
	return cniconf.Default{File: p.Node.DefaultReference().String(), List: d.Config(), Capabilities: d.Capabilities()}, nil
}

// The CNI error codes of a refusal.
const (
	codeInvalidConfig = 7
	codeTryAgain      = 11
)

// refusal puts an error into the stub's terms: 7 for what the pod's or the definition's author can mend, else 11.
func refusal(err error) *agentapi.Error {
	if already, ok := errors.AsType[*agentapi.Error](err); ok {
		return already
	}
	e := &agentapi.Error{Code: codeTryAgain, Message: strings.ReplaceAll(err.Error(), "\n", "; ")}
	if errors.Is(err, network.ErrInvalid) {
		e.Code = codeInvalidConfig
	}
	return e
}
