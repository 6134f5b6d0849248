// Package agent is the node agent: it answers the stub's questions from the cluster's definitions, this node's pods and
// the kubelet's device ids, publishes network-status, and keeps the node's CNI configuration. It runs no plugin.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
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
	Log                *slog.Logger
}

// Run is the agent, until ctx ends or something that it cannot do without fails. An API server, a kubelet or a default
// network that is away is none of that: it waits for them.
func Run(ctx context.Context, c Config) error {
	kube, err := NewKube(c.API, c.NodeName, c.Log)
	if err != nil {
		return err
	}
	kubelet, err := NewKubelet(c.PodResourcesSocket)
	if err != nil {
		return err
	}
	defer kubelet.Close()
	planner := &Planner{Kube: kube, Kubelet: kubelet, OnDisk: ConfigFolder(c.NetworksDir)}
	publisher := &Publisher{Kube: kube}
	server := &Server{Path: c.Socket, Plan: planner.Plan, Report: publisher.Report, Log: c.Log}
	keeper := &cniconf.Keeper{ConfDir: c.ConfDir, BinDir: c.BinDir, Log: c.Log}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return kube.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return keeper.Run(ctx) })
	if c.MetricsAddress != "" {
		g.Go(func() error {
			return serveHTTP(ctx, c.MetricsAddress, func() error {
				if !kube.Synced() {
					return errors.New("the API server has not been heard of yet")
				}
				return keeper.Err()
			})
		})
	}
	return g.Wait()
}

// serveHTTP answers /healthz while the process lives, and /readyz while ready returns nil.
func serveHTTP(ctx context.Context, address string, ready func() error) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
