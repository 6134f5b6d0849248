package offer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
)

const namespace = "viaduct_device_plugin_"

var (
	devicesDesc = prometheus.NewDesc(namespace+"devices",
		"Devices that the kubelet is offered, by pool, PF and health; reason is empty for healthy ones.",
		[]string{"resource", "pf", "health", "reason"}, nil)
	poolDesc = prometheus.NewDesc(namespace+"pool_devices",
		"Devices in each pool of the configuration in force; 0 if nothing matches.", []string{"resource"}, nil)
	claimedDesc = prometheus.NewDesc(namespace+"claimed_devices",
		"Devices of each pool that pods have.", []string{"resource"}, nil)
	registeredDesc = prometheus.NewDesc(namespace+"registered",
		"1 if the kubelet watches the pool's devices.", []string{"resource"}, nil)
	scansDesc = prometheus.NewDesc(namespace+"scans_total",
		"Looks at the PCI bus, at all of it or only at what changed.", []string{"kind"}, nil)
	lostDesc = prometheus.NewDesc(namespace+"lost_events_total",
		"Full scans because the kernel dropped events: one when it begins to, one when it ends.", nil, nil)
	scanSecondsDesc = prometheus.NewDesc(namespace+"last_scan_seconds",
		"Duration of the last full scan.", nil, nil)
	generationDesc = prometheus.NewDesc(namespace+"config_generation",
		"Number of configurations that came into force; 0 while there is none.", nil, nil)
	faultsDesc = prometheus.NewDesc(namespace+"config_faults",
		"Things wrong with the configuration file as it is now, so that an older one is in force; 1 if it is missing.", nil, nil)
)

// Metrics are what a monitoring system wants to know. Most of it is collected when it asks.
type Metrics struct {
	offer       *Offer
	inventory   *inventory.Inventory
	allocations *prometheus.CounterVec
	latency     prometheus.Histogram
}

// NewMetrics makes the metrics of an offer and its inventory.
func NewMetrics(o *Offer, i *inventory.Inventory) *Metrics {
	return &Metrics{
		offer: o, inventory: i,
		allocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: namespace + "allocations_total", Help: "Allocate requests of the kubelet, one per container, by result.",
		}, []string{"resource", "result"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: namespace + "allocate_seconds", Help: "Time to answer an Allocate request.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1},
		}),
	}
}

// Allocated is to be told of each allocation: see plugin.Config.
func (m *Metrics) Allocated(resource string, _ []string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "refused"
	}
	m.allocations.WithLabelValues(resource, result).Inc()
	m.latency.Observe(took.Seconds())
}

// Describe and Collect make Metrics a prometheus.Collector.
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		devicesDesc, poolDesc, claimedDesc, registeredDesc, scansDesc, lostDesc, scanSecondsDesc, generationDesc, faultsDesc,
	} {
		descs <- d
	}
	m.allocations.Describe(descs)
	m.latency.Describe(descs)
}

// Collect gives the values of now.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	status := m.offer.Status()
	for _, r := range status.Resources {
		collectDevices(out, r)
		gauge(out, poolDesc, float64(len(r.Devices)), r.Name)
		gauge(out, claimedDesc, float64(m.offer.claims.of(r.Name)), r.Name)
	}
	for _, s := range m.offer.Set.Status() {
		gauge(out, registeredDesc, oneIf(s.Registered), s.Resource)
	}
	stats := m.inventory.Stats()
	counter(out, scansDesc, float64(stats.Scans), "full")
	counter(out, scansDesc, float64(stats.Refreshes), "changed")
	counter(out, lostDesc, float64(stats.Lost))
	gauge(out, scanSecondsDesc, stats.LastScan.Seconds())
	gauge(out, generationDesc, float64(status.Generation))
	gauge(out, faultsDesc, float64(status.Faults))
	m.allocations.Collect(out)
	m.latency.Collect(out)
}

func collectDevices(out chan<- prometheus.Metric, r plugin.Resource) {
	type key struct{ pf, health, reason string }
	counts := map[key]int{}
	for _, d := range r.Devices {
		k := key{d.PF, "healthy", d.Unhealthy}
		if d.Unhealthy != "" {
			k.health = "unhealthy"
		}
		counts[k]++
	}
	for k, n := range counts {
		gauge(out, devicesDesc, float64(n), r.Name, k.pf, k.health, k.reason)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
