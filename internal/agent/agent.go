// Package agent is the node agent: it answers the stub's questions from the cluster's definitions, this node's pods and
// the kubelet's device ids, publishes network-status, and keeps the node's CNI configuration. It runs no plugin.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

// Config says where everything is.
type Config struct {
	NodeName           string
	API                *rest.Config
	Socket             string // the stub's
	ConfDir, BinDir    string // the runtime's CNI folders
	NetworksDir        string // configurations of definitions without spec.config
	JournalDir         string // the stub's records
	PodResourcesSocket string // the kubelet's
	MetricsAddress     string // host:port; empty for none
	// Node is what the node's configuration allows to pods, and what it gives them; nil: everything, and nothing.
	Node *network.NodeConfig
	// LookupTimeout bounds a question to the API server for what the informers do not have.
	LookupTimeout time.Duration
	Log           *slog.Logger
}

// Run is the agent, until ctx ends or something that it cannot do without fails. An API server, a kubelet or a default
// network that is away is none of that: it waits for them.
func Run(ctx context.Context, c Config) error {
	kube, err := NewKube(countAPI(c.API), c.NodeName, c.Log)
	if err != nil {
		return err
	}
	if c.LookupTimeout > 0 {
		kube.getBudget = c.LookupTimeout
	}
	kubelet, err := NewKubelet(c.PodResourcesSocket)
	if err != nil {
		return err
	}
	defer kubelet.Close()
	events := NewEvents(kube, c.NodeName, c.Log)
	if c.Node == nil {
		c.Node = network.DefaultNodeConfig()
	}
	planner := &Planner{Kube: kube, Kubelet: kubelet, OnDisk: ondisk.Folder(c.NetworksDir), Node: c.Node}
	publisher := &Publisher{Kube: kube}
	keeper := newKeeper(ctx, c, planner)
	statuses := &StatusWriter{Dir: c.JournalDir, Publisher: publisher, Log: c.Log}
	server := &Server{
		Path: c.Socket, Log: c.Log,
		Plan: func(ctx context.Context, ask agentapi.Plan) (*network.Plan, error) {
			start := time.Now()
			plan, err := planner.Plan(ctx, ask)
			count("plan", start, err)
			if err != nil {
				refused(c.Log, events, ask, err)
			}
			return plan, err
		},
		Report: func(ctx context.Context, r agentapi.Report) error {
			start := time.Now()
			err := publisher.Report(ctx, r)
			count("report", start, err)
			if err != nil {
				c.Log.Warn("Cannot publish network-status", "namespace", r.Pod.Namespace, "pod", r.Pod.Name, "err", err)
			}
			return err
		},
	}
	alive := func(ctx context.Context) error {
		if err := server.Alive(ctx, 4*time.Second); err != nil {
			return fmt.Errorf("ask on the agent's own socket: %w", err)
		}
		return nil
	}
	ready := func() error {
		if !kube.Synced() {
			return errors.New("the API server has not told of all definitions and pods yet")
		}
		return keeper.Err()
	}

	g, ctx := errgroup.WithContext(ctx)
	if c.MetricsAddress != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.MetricsAddress)
		if err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		g.Go(func() error { return serveHTTP(ctx, l, registry(kube, keeper), alive, ready) })
	}
	g.Go(func() error { return kube.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return keeper.Run(ctx) })
	g.Go(func() error { return statuses.Run(ctx) })
	g.Go(func() error { return events.Run(ctx) })
	return g.Wait()
}

func newKeeper(ctx context.Context, c Config, planner *Planner) *cniconf.Keeper {
	k := &cniconf.Keeper{
		ConfDir: c.ConfDir, BinDir: c.BinDir, Log: c.Log, ReadyFile: c.Node.ReadyFile,
		Options: cniconf.Options{DefaultNetworks: c.Node.Given(), SystemNamespaces: c.Node.Spared(), BinDir: c.Node.BinDir, MultusDir: c.Node.StateDir},
	}
	if c.Node.Policy.Isolated {
		k.Options.NamespaceIsolation, k.Options.GlobalNamespaces = true, c.Node.Policy.Global
	}
	if c.Node.Namespace != network.DefaultNamespace {
		k.Options.MultusNamespace = c.Node.Namespace
	}
	if c.Node.HasDefault() {
		k.Default = func() (cniconf.Default, error) { return planner.defaultNetwork(ctx) }
		k.Changed = planner.Kube.definitionsChanged()
	}
	return k
}

// refused tells the operator, and the pod's author if it is theirs to mend.
func refused(log *slog.Logger, events *Events, ask agentapi.Plan, err error) {
	r := refusal(err)
	log.Info("Refused a plan", "container", ask.ContainerID, "code", r.Code, "err", r)
	if r.Code == codeInvalidConfig {
		events.Refused(ask.Pod, r.Error())
	}
}
