package offer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/offer"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	resource = "intel.com/sriov"
	vf0, vf1 = "0000:02:10.0", "0000:02:10.2"
)

// A node is a tree of devices that is looked at when a test says so, a kubelet, and an offer between them.
type node struct {
	t       *testing.T
	tree    pcitest.Tree
	kubelet *kubelettest.Kubelet
	offer   *offer.Offer
	config  string // the folder
	files   string // the folder of the devices' files
	stop    func() // ends the offer
	log     *syncBuffer
	reload  chan struct{}

	inventory offer.Inventory // the node itself, unless a test wants one that looks by itself
	patience  time.Duration   // for the kubelet to say what pods have
	settle    time.Duration   // for what it says to be all
	after     string          // a file that is waited for

	changed chan struct{}
	mu      sync.Mutex
	devices []*inventory.Device
}

func (n *node) Changed() <-chan struct{} { return n.changed }

func (n *node) Devices() ([]*inventory.Device, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.devices, n.devices != nil
}

// look makes the offer see the tree as it is now.
func (n *node) look() {
	n.t.Helper()
	devices, err := inventory.Once(n.tree.Root, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.devices = devices
	n.mu.Unlock()
	n.changed <- struct{}{}
}

// newNode makes a node with a PF of two VFs and this configuration, and starts kubelet and offer.
func newNode(t *testing.T, config string) *node {
	n := prepareNode(t, config)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	return n
}

// prepareNode starts neither.
func prepareNode(t *testing.T, config string) *node {
	n := &node{
		t: t, tree: pcitest.New(t), kubelet: kubelettest.New(t), config: t.TempDir(), files: t.TempDir(), log: &syncBuffer{},
		changed: make(chan struct{}), reload: make(chan struct{}), patience: time.Hour,
		settle: 20 * time.Millisecond,
	}
	n.inventory = n
	n.tree.AddIGB("02", "ens2", 4, 2)
	n.configure(config)
	return n
}

// start starts a new offer, which knows nothing of an earlier one.
func (n *node) start() {
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.offer = &offer.Offer{
		Config:    &offer.ConfigFile{Path: filepath.Join(n.config, "config.json"), Node: "node1", Prefix: "intel.com"},
		Inventory: n.inventory, Log: log, Reload: n.reload, Look: 5 * time.Millisecond, Grace: time.Hour,
		Patience: n.patience, Settle: n.settle, After: n.after,
		DevInfo: devinfo.Dir{Root: filepath.Join(n.files, "devinfo")}, CDI: &cdi.Dir{Root: filepath.Join(n.files, "cdi")},
		Holder: offer.PodResources{
			Socket:  filepath.Join(n.kubelet.Dir, "pod-resources", "kubelet.sock"),
			Kubelet: filepath.Join(n.kubelet.Plugins(), "kubelet.sock"), Namespace: kubelettest.Namespace, Pod: kubelettest.Pod,
		},
	}
	n.offer.Set = plugin.NewSet(plugin.Config{
		RegistryDir: n.kubelet.Registry(), DevicePluginDir: n.kubelet.Plugins(), Root: n.tree.Root,
		DevInfo: n.offer.DevInfo, CDI: n.offer.CDI, Log: log,
		Timing:     plugin.Timing{Look: 5 * time.Millisecond, FirstPause: 5 * time.Millisecond, Reconnect: 50 * time.Millisecond},
		Allocating: n.offer.Allocating,
	})
	o := n.offer
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.Run(ctx)
		o.Set.Close()
	}()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	n.t.Cleanup(n.stop)
	if n.inventory == n {
		n.look()
	}
}

// configure swaps the configuration as a mounted ConfigMap does: by rename.
func (n *node) configure(config string) { n.write("config.json", config) }

func (n *node) write(name, config string) {
	n.t.Helper()
	temp := filepath.Join(n.t.TempDir(), "new")
	if err := os.WriteFile(temp, []byte(config), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(n.config, name)); err != nil {
		n.t.Fatal(err)
	}
}

// sees waits until the kubelet has these devices, as "id id!": with a ! if unhealthy; "-" if the resource is not there.
func (n *node) sees(resource, want string) {
	n.t.Helper()
	got := ""
	defer func() {
		if n.t.Failed() {
			n.t.Logf("the kubelet has %q; log:\n%s", got, n.log)
		}
	}()
	kubelettest.Eventually(n.t, fmt.Sprintf("%s is %q", resource, want), func() bool {
		devices := n.kubelet.Devices(resource)
		if devices == nil {
			got = "-"
			return got == want
		}
		var ids []string
		for _, id := range []string{vf0, vf1} {
			switch devices[id] {
			case "Healthy":
				ids = append(ids, id)
			case "Unhealthy":
				ids = append(ids, id+"!")
			}
		}
		got = strings.Join(ids, " ")
		return got == want
	})
}

func pools(entries ...string) string { return `{"resourceList": [` + strings.Join(entries, ",") + `]}` }

const (
	all   = `{"resourceName": "sriov", "selectors": {"vendors": ["8086"]}}`
	first = `{"resourceName": "sriov", "selectors": {"pfNames": ["ens2#0"]}}`
	other = `{"resourceName": "other", "selectors": {"vendors": ["8086"]}}`
)

func TestNothingMatches(t *testing.T) {
	n := newNode(t, pools(`{"resourceName": "sriov", "selectors": {"vendors": ["15b3"]}}`))
	kubelettest.Eventually(t, "ready", func() bool { return n.get("/readyz", 200) != "" })
	n.afterSomeRounds()
	n.sees(resource, "-")
	if body := n.get("/healthz", 200); body != "ok\n" {
		t.Errorf("/healthz: %q", body)
	}
	n.tells("/readyz", resource+": no device is in the pool\n")
	n.tells("/metrics", `pool_devices{resource="intel.com/sriov"} 0`)
	entries, err := os.ReadDir(n.kubelet.Registry())
	if err != nil || len(entries) != 0 {
		t.Errorf("sockets: %v, %v", entries, err)
	}
	const warning = "level=WARN msg=\"no device is in the pool"
	if got := strings.Count(n.log.String(), warning); got != 1 {
		t.Errorf("warned %d times, want once", got)
	}
	if got := strings.Count(n.log.String(), "reason=\"vendors: it has 8086\""); got != 2 {
		t.Errorf("%d reasons in the log, want one for each VF:\n%s", got, n.log)
	}
	n.configure(pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.configure(pools(`{"resourceName": "sriov", "selectors": {"vendors": ["15b3"]}}`))
	n.sees(resource, "")
	if got := strings.Count(n.log.String(), warning); got != 2 {
		t.Errorf("warned %d times, want once more", got)
	}
}

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// What a selector asks for is what Allocate gives, also when the configuration that asked is gone.
func TestNeedsReachAllocate(t *testing.T) {
	n := prepareNode(t, pools(`{"resourceName": "sriov", "selectors": {"vdpaType": "vhost", "needVhostNet": true}}`))
	n.tree.Write(n.tree.AddVDPA(n.tree.Dir(vf0), "vdpa0", "vhost_vdpa")+"/vhost-vdpa-3/dev", "511:0")
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.sees(resource, vf0)
	check := func() {
		t.Helper()
		got := n.allocate(resource, vf0).GetEnvs()["PCIDEVICE_INTEL_COM_SRIOV_INFO"]
		want := `{"0000:02:10.0":{"generic":{"deviceID":"0000:02:10.0"},"vdpa":{"mount":"/dev/vhost-vdpa-3"},"vhost":{"net-mount":"/dev/vhost-net","tun-mount":"/dev/net/tun"}}}`
		if got != want {
			t.Errorf("info: %s, want %s", got, want)
		}
	}
	check()
	n.kubelet.Give(vf0, resource)
	n.configure(pools(fewVFs))
	n.afterSomeRounds()
	check()
}

func TestDevicesComeAndGo(t *testing.T) {
	n := newNode(t, pools(`{"resourceName": "sriov", "selectors": {"drivers": ["igbvf"]}}`))
	n.sees(resource, vf0+" "+vf1)
	n.tree.RemoveVFs("0000:02:00.0")
	n.look()
	n.sees(resource, vf0+"! "+vf1+"!") // for the time of grace
	n.tree.AddVF("0000:02:00.0", pcitest.Func{Address: vf0, Vendor: "8086", Device: "10ca", Class: "020000", Driver: "igbvf"})
	n.look()
	n.sees(resource, vf0+" "+vf1+"!")
	n.tree.Bind(vf0, "vfio-pci")
	n.look()
	n.sees(resource, vf1+"!")
}

// A device that a pod has must not be offered a second time, whatever the configuration says.
func TestHeldDevicesStay(t *testing.T) {
	n := newNode(t, pools(first, other))
	n.sees(resource, vf0)
	n.sees("intel.com/other", vf1)
	n.kubelet.Give(vf0, resource)
	n.configure(pools(other))
	n.sees(resource, "-")
	n.sees("intel.com/other", vf1)
	n.configure(pools(other, `{"resourceName": "sriov", "selectors": {"drivers": ["vfio-pci"]}}`))
	n.sees(resource, vf0)
	n.kubelet.Give(vf0, "")
	n.sees("intel.com/other", vf0+" "+vf1)
	n.sees(resource, "")
}

func TestMetrics(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.tree.RemoveVFs("0000:02:00.0")
	n.look()
	n.sees(resource, vf0+"! "+vf1+"!")
	kubelettest.Eventually(t, "registered", func() bool {
		return strings.Contains(n.get("/metrics", 200), "viaduct_device_plugin_registered{resource=\"intel.com/sriov\"} 1\n")
	})
	for _, want := range []string{
		`viaduct_device_plugin_devices{health="unhealthy",pf="0000:02:00.0",reason="it is gone from the PCI bus",resource="intel.com/sriov"} 2`,
		"viaduct_device_plugin_config_generation 1", "viaduct_device_plugin_config_faults 0",
	} {
		n.tells("/metrics", want+"\n")
	}
}

// Allocations are counted by result, with the time that they took, and devices are a pod's from that moment.
func TestMetricsOfAllocations(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.tells("/metrics", `claimed_devices{resource="intel.com/sriov"} 0`)
	n.allocate(resource, vf0)
	n.tells("/metrics", `claimed_devices{resource="intel.com/sriov"} 1`)

	metrics := offer.NewMetrics(n.offer, inventory.New(n.tree.Root, slog.New(slog.DiscardHandler), inventory.Options{}))
	metrics.Allocated(resource, []string{vf0}, 3*time.Millisecond, nil)
	metrics.Allocated(resource, []string{vf1}, 40*time.Millisecond, os.ErrNotExist)
	metrics.Allocated(resource, []string{vf1}, 4*time.Millisecond, nil)
	w := httptest.NewRecorder()
	n.offer.Handler(metrics).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`allocations_total{resource="intel.com/sriov",result="ok"} 2`, `allocations_total{resource="intel.com/sriov",result="refused"} 1`,
		`allocate_seconds_bucket{le="0.005"} 2`, `allocate_seconds_bucket{le="0.05"} 3`, `allocate_seconds_count 3`,
	} {
		if !strings.Contains(w.Body.String(), "viaduct_device_plugin_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}

// tells waits until the HTTP handler says something: what the kubelet has is there a moment before it is reported.
func (n *node) tells(path, part string) {
	n.t.Helper()
	defer func() {
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", path, n.get(path, 200))
		}
	}()
	kubelettest.Eventually(n.t, fmt.Sprintf("%s says %q", path, part), func() bool { return strings.Contains(n.get(path, 200), part) })
}

// get asks the HTTP handler, and gives "" if the status is another than wanted.
func (n *node) get(path string, status int) string {
	metrics := offer.NewMetrics(n.offer, inventory.New(n.tree.Root, slog.New(slog.DiscardHandler), inventory.Options{}))
	w := httptest.NewRecorder()
	n.offer.Handler(metrics).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if w.Code != status {
		return ""
	}
	return w.Body.String()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
