package offer

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Handler serves /healthz, /readyz and /metrics.
func (o *Offer) Handler(m *Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, o.unwell(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		lines, ready := o.readiness()
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, strings.Join(lines, "\n"))
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

func answer(w http.ResponseWriter, problems []string) {
	if len(problems) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(problems, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}

// unwell asks every socket of ours what the kubelet would: a process that lives but does not answer is to be restarted.
// A kubelet that is away is no such thing.
func (o *Offer) unwell(ctx context.Context) (problems []string) {
	for _, s := range o.Set.Status() {
		if s.Socket == "" {
			continue
		}
		if err := ping(ctx, s.Socket); err != nil {
			problems = append(problems, fmt.Sprintf("%s: its socket does not answer: %v", s.Resource, err))
		}
	}
	return problems
}

func ping(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // one call was made on it, and answered
	_, err = deviceplugin.NewDevicePluginClient(conn).GetDevicePluginOptions(ctx, &deviceplugin.Empty{})
	return err
}

// readiness is ready when everything that is to be offered is offered. A faulty new configuration does not change that,
// since the last good one is in force, but it is told.
func (o *Offer) readiness() (lines []string, ready bool) {
	s := o.Status()
	ready = s.Offering
	if s.Generation == 0 {
		lines = append(lines, "configuration: none in force")
	} else {
		lines = append(lines, fmt.Sprintf("configuration: %s, generation %d in force", s.ConfigFile, s.Generation))
	}
	if s.Problem != "" {
		lines = append(lines, "configuration as it is now: "+strings.ReplaceAll(s.Problem, "\n", "\n  "))
	}
	if !ready {
		lines = append(lines, "waiting for "+cmp.Or(s.Waiting, "the first look at the devices"))
	}
	for _, r := range s.Resources {
		if len(r.Devices) == 0 {
			lines = append(lines, r.Name+": no device is in the pool")
		}
	}
	for _, r := range o.Set.Status() {
		if r.Registered {
			lines = append(lines, r.Resource+": registered")
			continue
		}
		ready = false
		lines = append(lines, r.Resource+": not registered: "+cmp.Or(r.Problem, "the kubelet has not come yet"))
	}
	return lines, ready
}
