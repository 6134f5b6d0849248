package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
)

var (
	requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "viaduct_agent_requests_total", Help: "Requests of meta-cni by kind (plan, report) and by CNI error code (0: answered).",
	}, []string{"kind", "code"})
	requestSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "viaduct_agent_request_seconds", Help: "How long requests of meta-cni took.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .05, .1, .5, 1, 2.5, 5, 10, 30},
	}, []string{"kind"})
	statusPublished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "viaduct_agent_network_status_total", Help: "Attempts to publish a pod's network-status, by result (ok, failed).",
	}, []string{"result"})
	apiRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "viaduct_agent_api_requests_total", Help: "Requests to the API server by method and status code (0: no answer).",
	}, []string{"method", "code"})
)

// countAPI makes every request to the API server count in the metrics.
func countAPI(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			code := 0
			if err == nil {
				code = answer.StatusCode
			}
			apiRequests.WithLabelValues(r.Method, strconv.Itoa(code)).Inc()
			return answer, err
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// count notes one request of the stub.
func count(kind string, start time.Time, err error) {
	code := uint(0)
	if err != nil {
		code = refusal(err).Code
	}
	requests.WithLabelValues(kind, strconv.FormatUint(uint64(code), 10)).Inc()
	requestSeconds.WithLabelValues(kind).Observe(time.Since(start).Seconds())
}

// registry holds the agent's metrics; states are read when somebody looks.
func registry(kube *Kube, keeper *cniconf.Keeper) *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	boolean := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	r.MustRegister(
		requests, requestSeconds, statusPublished, apiRequests,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("viaduct_agent_synced", "1 if the agent has seen all definitions and this node's pods.", func() float64 { return boolean(kube.Synced()) }),
		gauge("viaduct_agent_definitions", "NetworkAttachmentDefinitions known.", func() float64 { return float64(len(kube.nads.GetStore().ListKeys())) }),
		gauge("viaduct_agent_pods", "Pods of this node known.", func() float64 { return float64(len(kube.pods.GetStore().ListKeys())) }),
		gauge("viaduct_agent_cni_configuration_in_place", "1 if the runtime's CNI configuration is as it should be.", func() float64 { return boolean(keeper.Err() == nil) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "viaduct_agent_cni_configuration_restored_total", Help: "How often another program had removed or changed the runtime's CNI configuration, and it was put back.",
		}, func() float64 { return float64(keeper.Restored()) }),
		gauge("viaduct_agent_plugins_overwritten", "CNI plugins of ours that another project's installer has replaced.", func() float64 { return float64(len(keeper.Overwritten())) }),
	)
	return r
}

// serveHTTP answers /healthz while alive returns nil, /readyz while ready does, and /metrics.
func serveHTTP(ctx context.Context, l net.Listener, metrics prometheus.Gatherer, alive func(context.Context) error, ready func() error) error {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, alive(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, ready()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
