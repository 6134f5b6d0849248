//go:build lab

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

const resource = "intel.com/sriov"

// pf is the lab's first PF without VFs, with its driver, and gives it back so.
func pf(t *testing.T) *pci.Device {
	t.Helper()
	snapshot, err := pci.Scan("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range snapshot.Devices() {
		if d.Driver == "igb" && d.IsPF() {
			numVFs(t, d, 0)
			t.Cleanup(func() { numVFs(t, d, 0) })
			return d
		}
	}
	t.Fatal("no igb PF: run this test in the lab")
	return nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o200); err != nil {
		t.Fatal(err)
	}
}

func numVFs(t *testing.T, d *pci.Device, n int) {
	t.Helper()
	write(t, filepath.Join("/sys/bus/pci/devices", d.Address.String(), "sriov_numvfs"), strconv.Itoa(n))
}

func vf(t *testing.T, d *pci.Device, index int) *pci.Device {
	t.Helper()
	now, err := pci.Read("/", d.Address)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pci.Read("/", now.VFs[index])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.Background(), "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A testNode runs the whole program on the lab's own devices, towards a stand-in kubelet.
type testNode struct {
	t       *testing.T
	kubelet *kubelettest.Kubelet
	config  string
	address string
}

func start(t *testing.T, config string) *testNode {
	n := &testNode{t: t, kubelet: kubelettest.New(t), config: filepath.Join(t.TempDir(), "config.json"), address: "127.0.0.1:9808"}
	n.configure(config)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	args := []string{
		"--config-file", n.config, "-log-level=debug", "-kubelet-root", n.kubelet.Dir, "-device-plugin-dir", n.kubelet.Plugins(),
		"-device-info-dir", t.TempDir(), "-metrics-address", n.address,
	}
	go func() { ended <- run(ctx, args, os.Getenv, io.Discard, t.Output()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	// A kubelet that has just started is asked twice what pods have: what is measured later is not to have that in it.
	kubelettest.Eventually(t, "it offers what there is", func() bool {
		said := n.get("/readyz")
		return said != "" && !strings.Contains(said, "waiting for")
	})
	return n
}

func (n *testNode) configure(config string) {
	n.t.Helper()
	if err := os.WriteFile(n.config+".new", []byte(config), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(n.config+".new", n.config); err != nil {
		n.t.Fatal(err)
	}
}

// sees waits until the kubelet has these devices, and gives how long that took.
func (n *testNode) sees(what string, want map[string]string) time.Duration {
	n.t.Helper()
	started := time.Now()
	var got map[string]string
	seen := false
	defer func() {
		if !seen {
			n.t.Logf("%s (-want +got):\n%s", what, cmp.Diff(want, got))
		}
	}()
	kubelettest.Eventually(n.t, what, func() bool {
		got = n.kubelet.Devices(resource)
		return cmp.Equal(want, got)
	})
	seen = true
	took := time.Since(started)
	n.t.Logf("%s: the kubelet knew after %s", what, took.Round(time.Millisecond))
	return took
}

func TestNodeIsFollowed(t *testing.T) {
	d := pf(t)
	uplink, ok := d.Uplink()
	if !ok {
		t.Fatalf("no interface on %s", d.Address)
	}
	n := start(t, fmt.Sprintf(`{"resourceList": [{"resourceName": "sriov", "selectors": {"pfNames": [%q]}}]}`, uplink.Name))

	numVFs(t, d, 3)
	v0, v1, v2 := vf(t, d, 0), vf(t, d, 1), vf(t, d, 2)
	healthy := map[string]string{v0.Address.String(): "Healthy", v1.Address.String(): "Healthy", v2.Address.String(): "Healthy"}
	n.sees("VFs made", healthy)

	// The kubelet is to know within a second. It takes some 30 ms, so one of three is enough on a machine that is busy.
	driver := "/sys/bus/pci/drivers/igbvf/"
	sick := map[string]string{v0.Address.String(): "Healthy", v1.Address.String(): "Unhealthy", v2.Address.String(): "Healthy"}
	for try, took := 1, time.Duration(0); try == 1 || took > time.Second; try++ {
		write(t, driver+"unbind", v1.Address.String())
		took = n.sees("driver unbound", sick)
		if took > time.Second && try == 3 {
			t.Errorf("three times it took more than a second, now %s", took)
			took = 0
		}
		write(t, driver+"bind", v1.Address.String())
		n.sees("driver bound", healthy)
	}

	// Into a pod and back: the kubelet must not notice.
	before := n.kubelet.Count(resource)
	netdev := waitForNetdev(t, v0.Address)
	ip(t, "netns", "add", "pod")
	waitForLook(t, n, func() { ip(t, "link", "set", netdev, "netns", "pod") })
	n.sees("VF moved into a pod", healthy)
	ip(t, "netns", "exec", "pod", "ip", "link", "set", netdev, "netns", "1")
	ip(t, "netns", "del", "pod")
	n.sees("VF back", healthy)
	if got := n.kubelet.Count(resource); got != before {
		t.Errorf("the kubelet was sent %d lists over it", got-before)
	}

	ip(t, "addr", "add", "192.0.2.1/24", "dev", netdev)
	delete(healthy, v0.Address.String())
	n.sees("VF with an address", healthy)
	ip(t, "addr", "del", "192.0.2.1/24", "dev", netdev)
	healthy[v0.Address.String()] = "Healthy"
	n.sees("VF without it", healthy)

	ip(t, "link", "set", uplink.Name, "down")
	ip(t, "link", "set", uplink.Name, "name", "pf0")
	t.Cleanup(func() {
		numVFs(t, d, 0) // one of them may have taken the name
		ip(t, "link", "set", "pf0", "name", uplink.Name)
	})
	n.sees("PF renamed", map[string]string{})
	n.configure(`{"resourceList": [{"resourceName": "sriov", "selectors": {"pfNames": ["pf0#0-1"]}}]}`)
	n.sees("configuration changed", map[string]string{v0.Address.String(): "Healthy", v1.Address.String(): "Healthy"})

	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	kubelettest.Eventually(t, "SIGHUP made it read the configuration", func() bool {
		return strings.Contains(n.get("/metrics"), "viaduct_device_plugin_config_generation 3\n")
	})

	numVFs(t, d, 0)
	n.sees("VFs removed", map[string]string{v0.Address.String(): "Unhealthy", v1.Address.String(): "Unhealthy"})
	numVFs(t, d, 2)
	n.sees("VFs made again", map[string]string{v0.Address.String(): "Healthy", v1.Address.String(): "Healthy"})
}

// A VF that carried the node's traffic is not offered when its route is gone for a moment, and nothing else carries it.
// A restart ends that, so the second family starts with the VF again.
func TestUplinkStaysTheNodes(t *testing.T) {
	d := pf(t)
	numVFs(t, d, 2)
	v0, v1 := vf(t, d, 0), vf(t, d, 1)
	netdev := waitForNetdev(t, v0.Address)
	for _, family := range []string{"-4", "-6"} {
		t.Run("family "+family, func(t *testing.T) {
			n := start(t, fmt.Sprintf(`{"resourceList": [{"resourceName": "sriov", "selectors": {"rootDevices": [%q]}}]}`, d.Address))
			n.sees("both VFs", map[string]string{v0.Address.String(): "Healthy", v1.Address.String(): "Healthy"})
			ip(t, "link", "set", netdev, "up")
			ip(t, family, "route", "add", "default", "dev", netdev, "metric", "9999")
			n.sees("a VF with a default route", map[string]string{v1.Address.String(): "Healthy"})
			ip(t, "link", "set", netdev, "down") // takes the route along
			// That alone is an event about links, which counts as no look at the device: make one that does.
			waitForLook(t, n, func() { write(t, "/sys/class/net/"+netdev+"/uevent", "change") })
			n.sees("a VF that had one", map[string]string{v1.Address.String(): "Healthy"})
		})
	}
}

func (n *testNode) get(path string) string {
	n.t.Helper()
	request, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://"+n.address+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "" // not listening yet
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(body)
}

// waitForNetdev waits for a VF's interface, which its driver makes a moment after it was bound.
func waitForNetdev(t *testing.T, a pci.Address) (name string) {
	t.Helper()
	kubelettest.Eventually(t, "the VF has an interface", func() bool {
		d, err := pci.Read("/", a)
		if err != nil || len(d.Netdevs) == 0 {
			return false
		}
		name = d.Netdevs[0].Name
		return true
	})
	return name
}

// waitForLook waits until the program has looked at the devices once more than before do, which must be an event: the next
// look without one is minutes away.
func waitForLook(t *testing.T, n *testNode, do func()) {
	t.Helper()
	scans := func() string {
		var lines []string
		for line := range strings.Lines(n.get("/metrics")) {
			if strings.HasPrefix(line, "viaduct_device_plugin_scans_total") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	before := scans()
	do()
	kubelettest.Eventually(t, "it looked again", func() bool { return scans() != before })
}

func TestScanOfRealVFs(t *testing.T) {
	d := pf(t)
	numVFs(t, d, 4)
	snapshot, err := pci.Scan("/")
	if err != nil {
		t.Fatal(err)
	}
	now := snapshot.Device(d.Address)
	if len(now.VFs) != 4 || now.TotalVFs != 7 || now.NUMANode < 0 || now.IOMMUGroup == "" {
		t.Errorf("PF: %+v", now)
	}
	for i, a := range now.VFs {
		v := snapshot.Device(a)
		if v == nil || v.VFIndex != i || v.PF != d.Address || v.Vendor != "8086" || v.Product != "10ca" || v.NUMANode != now.NUMANode {
			t.Errorf("VF %d: %+v", i, v)
		}
		read, err := pci.Read("/", a)
		if err != nil || read.VFIndex != i {
			t.Errorf("VF %d alone: %+v, %v", i, read, err)
		}
	}
}
