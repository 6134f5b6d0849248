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
	log     *syncBuffer
	reload  chan struct{}

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

// newNode makes a node with a PF of two VFs and this configuration, and starts the offer.
func newNode(t *testing.T, config string) *node {
	n := &node{
		t: t, tree: pcitest.New(t), kubelet: kubelettest.New(t), config: t.TempDir(), log: &syncBuffer{},
		changed: make(chan struct{}), reload: make(chan struct{}),
	}
	n.tree.AddIGB("02", "ens2", 4, 2)
	n.configure(config)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	log := slog.New(slog.NewTextHandler(n.log, nil))
	n.offer = &offer.Offer{
		Config:    &offer.ConfigFile{Path: filepath.Join(n.config, "config.json"), Node: "node1", Prefix: "intel.com"},
		Inventory: n, Log: log, Reload: n.reload, Look: 5 * time.Millisecond, Grace: time.Hour,
		Holder: offer.PodResources{Socket: filepath.Join(n.kubelet.Dir, "pod-resources", "kubelet.sock")},
	}
	n.offer.Set = plugin.NewSet(plugin.Config{
		RegistryDir: n.kubelet.Registry(), DevicePluginDir: n.kubelet.Plugins(), Root: n.tree.Root,
		DevInfo: devinfo.Dir{Root: t.TempDir()}, Log: log, Timing: plugin.Timing{Look: 5 * time.Millisecond},
		Allocated: n.offer.Allocated,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.offer.Run(ctx)
		n.offer.Set.Close()
	}()
	t.Cleanup(func() { cancel(); <-done })
	n.look()
	return n
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

func TestConfigurationIsLive(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.configure(pools(first, other))
	n.sees(resource, vf0)
	n.sees("intel.com/other", vf1)
	n.configure(pools(other))
	n.sees(resource, "-")
	n.sees("intel.com/other", vf0+" "+vf1)
	n.write("node1.json", pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.sees("intel.com/other", "-")
}

func TestFaultyConfigurationLeavesTheOldOne(t *testing.T) {
	for name, faulty := range map[string]string{"cut off": pools(all)[:20], "unknown key": pools(`{"resourceName": "x", "selectors": {"vendor": ["8086"]}}`), "empty": ""} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, pools(all))
			n.sees(resource, vf0+" "+vf1)
			n.configure(faulty)
			kubelettest.Eventually(t, "the fault is reported", func() bool { return n.offer.Status().Problem != "" })
			n.sees(resource, vf0+" "+vf1)
			if !strings.Contains(n.log.String(), "the last good configuration stays in force") {
				t.Errorf("log:\n%s", n.log)
			}
			kubelettest.Eventually(t, "ready all the same", func() bool { return n.get("/readyz", 200) != "" })
			if text := n.get("/readyz", 200); !strings.Contains(text, "configuration as it is now: line 1") {
				t.Errorf("/readyz: %s", text)
			}
			n.configure(pools(first))
			n.sees(resource, vf0)
		})
	}
}

func TestFaultyFromTheStart(t *testing.T) {
	n := newNode(t, "{")
	kubelettest.Eventually(t, "not ready", func() bool { return strings.Contains(n.get("/readyz", 503), "none in force") })
	n.configure(pools(all))
	n.sees(resource, vf0+" "+vf1)
}

func TestNothingMatches(t *testing.T) {
	n := newNode(t, pools(`{"resourceName": "sriov", "selectors": {"vendors": ["15b3"]}}`))
	kubelettest.Eventually(t, "ready", func() bool { return n.get("/readyz", 200) != "" })
	n.sees(resource, "-")
	if body := n.get("/healthz", 200); body != "ok\n" {
		t.Errorf("/healthz: %q", body)
	}
	entries, err := os.ReadDir(n.kubelet.Registry())
	if err != nil || len(entries) != 0 {
		t.Errorf("sockets: %v, %v", entries, err)
	}
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

func TestReload(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	before := n.offer.Status().Generation
	n.reload <- struct{}{}
	kubelettest.Eventually(t, "the configuration is read again", func() bool { return n.offer.Status().Generation > before })
	n.sees(resource, vf0+" "+vf1)
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
	body := n.get("/metrics", 200)
	for _, want := range []string{
		`viaduct_device_plugin_devices{health="unhealthy",pf="0000:02:00.0",reason="it is gone from the PCI bus",resource="intel.com/sriov"} 2`,
		"viaduct_device_plugin_config_generation 1", "viaduct_device_plugin_config_faulty 0",
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
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
