//go:build scale

package scale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/memtest"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

const resource = "intel.com/sriov"

// A plugin is the device plugin as it runs, on a tree of PFs, with a kubelet that stands in for the real one.
type plugin struct {
	kubelet *kubelettest.Kubelet
	pid     int
	devices deviceplugin.DevicePluginClient // the kubelet's side of it, with its bytes counted
	wire    *payloads
	files   string // device-info
}

// payloads counts the bytes of messages that arrive.
type payloads struct{ in atomic.Int64 }

func (p *payloads) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		p.in.Add(int64(in.Length))
	}
}

func (*payloads) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*payloads) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*payloads) HandleConn(context.Context, stats.ConnStats)                       {}

// startPlugin returns when the kubelet has all VFs. They are in user space: interfaces would have to be among this
// machine's links.
func startPlugin(t *testing.T, program string, pfs, vfs int) *plugin {
	t.Helper()
	dir := t.TempDir()
	tree := pcitest.New(t)
	tree.AddLargeVFIO(pfs, vfs)
	for pf := range pfs { // whose interfaces this machine does not have: the plugin would look for them again and again
		tree.RemoveNet(fmt.Sprintf("0000:%02x:00.0", 0x10+4*pf), fmt.Sprintf("p%d", pf))
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"resourceList": [{"resourceName": "sriov", "selectors": {"drivers": ["vfio-pci"]}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &plugin{kubelet: kubelettest.New(t), wire: &payloads{}, files: filepath.Join(dir, "devinfo")}
	p.kubelet.Start()
	t.Cleanup(p.kubelet.Stop)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "-root", tree.Root, "-config-file", config, "-kubelet-root", p.kubelet.Dir,
		"-device-plugin-dir", p.kubelet.Plugins(), "-device-info-dir", p.files, "-metrics-address", "", "-log-level", "warn")
	cmd.Stderr = &stderr
	end(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, cmd, &stderr) })
	kubelettest.Eventually(t, "the kubelet has every VF", func() bool { return len(p.kubelet.Devices(resource)) == pfs*vfs })
	p.pid = cmd.Process.Pid
	sockets, err := filepath.Glob(p.kubelet.Registry() + "/*")
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %q, %v; want one", sockets, err)
	}
	conn, err := grpc.NewClient("unix:"+sockets[0], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(p.wire))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.devices = deviceplugin.NewDevicePluginClient(conn)
	return p
}

// end makes a daemon end by SIGTERM with the test's context, which is before the test's clean-up.
func end(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
}

func ended(t *testing.T, cmd *exec.Cmd, stderr *bytes.Buffer) {
	if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%s ended with %v: %s", cmd.Path, err, stderr.String())
	}
}

// list is how many bytes the kubelet gets with each list.
func (p *plugin) list(t *testing.T) int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := p.wire.in.Load()
	stream, err := p.devices.ListAndWatch(ctx, &deviceplugin.Empty{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p.wire.in.Load() - before
}

// cpu is what the process has used of a CPU so far.
func cpu(t *testing.T, pid int) (used time.Duration) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		var ns time.Duration
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		if _, err := fmt.Sscan(string(raw), &ns); err != nil {
			t.Fatal(err)
		}
		used += ns
	}
	return used
}

// infos is how many device-info files there are.
func (p *plugin) infos(t *testing.T) (n int) {
	t.Helper()
	err := filepath.WalkDir(p.files, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			n++
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}

// churn gives a VF to each of the pods, one after the other as the kubelet does, and takes them all back. It returns how long
// each Allocate took, as a multiple of a call beside it that only comes back.
func (p *plugin) churn(t *testing.T, pods int, during func()) (ratios []float64) {
	t.Helper()
	var free []string
	for id := range p.kubelet.Devices(resource) {
		free = append(free, id)
	}
	slices.Sort(free)
	for i := range pods {
		preferred, err := p.devices.GetPreferredAllocation(t.Context(), &deviceplugin.PreferredAllocationRequest{
			ContainerRequests: []*deviceplugin.ContainerPreferredAllocationRequest{{AvailableDeviceIDs: free[i:], AllocationSize: 1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids := preferred.GetContainerResponses()[0].GetDeviceIDs()
		at := slices.Index(free, ids[0])
		free[i], free[at] = free[at], free[i] // what is before i is taken
		bare := clock(t, func() error {
			_, err := p.devices.GetDevicePluginOptions(t.Context(), &deviceplugin.Empty{})
			return err
		})
		took := clock(t, func() error {
			_, err := p.devices.Allocate(t.Context(), &deviceplugin.AllocateRequest{ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}}})
			return err
		})
		ratios = append(ratios, float64(took)/float64(bare))
		p.kubelet.Give(ids[0], resource)
	}
	during()
	for _, id := range free[:pods] {
		p.kubelet.Give(id, "")
	}
	return ratios
}

func clock(t *testing.T, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func quantile(v []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// TestNode is a node with 16 PFs of 64 VFs, and 250 pods that come and go four times.
func TestNode(t *testing.T) {
	const pfs, vfs, pods, times = 16, 64, 250, 4
	program := memtest.Build(t, "../../cmd/device-plugin")
	small := startPlugin(t, program, 1, 1)
	smallCPU := cpu(t, small.pid)
	smallRSS, smallAnon := memtest.Resident(t, small.pid)
	p := startPlugin(t, program, pfs, vfs)
	startCPU := cpu(t, p.pid)
	startRSS, startAnon := memtest.Resident(t, p.pid)
	list := p.list(t)
	lists := p.kubelet.Count(resource)
	fmt.Printf("\ndevice plugin, %d PFs of %d VFs in one pool\n", pfs, vfs)
	fmt.Printf("  until the kubelet has all       %.1f × the CPU time with one VF\n", float64(startCPU)/float64(smallCPU))
	fmt.Printf("  one list to the kubelet         %d bytes, %d a VF; %d lists so far\n", list, list/(pfs*vfs), lists)
	fmt.Printf("  memory at the start             RSS %d KiB, anonymous %d KiB; with one VF %d and %d\n", startRSS, startAnon, smallRSS, smallAnon)
	var peak int
	for n := range times {
		before := p.wire.in.Load()
		ratios := p.churn(t, pods, func() {
			if got := p.infos(t); got < pods { // those of the time before go later
				t.Errorf("%d device-info files for %d pods", got, pods)
			}
		})
		rss, anon := memtest.Resident(t, p.pid)
		peak = max(peak, rss)
		fmt.Printf("  %d pods come and go, time %d    Allocate: median %.1f × a call that does nothing, 99%% %.1f ×; %d bytes of answers; RSS %d KiB, anonymous %d KiB\n",
			pods, n+1, quantile(ratios, 0.5), quantile(ratios, 0.99), p.wire.in.Load()-before, rss, anon)
	}
	if more := p.kubelet.Count(resource) - lists; more != 0 {
		t.Errorf("the kubelet got %d lists more, for pods that change no device", more)
	}
	const most = 30 << 10 // KiB
	if peak > most {
		t.Errorf("RSS %d KiB, at most %d", peak, most)
	}
	// A device counts as free when no pod has it for half a minute.
	deadline := time.Now().Add(5 * time.Minute)
	left := p.infos(t)
	for ; left > 0 && time.Now().Before(deadline); left = p.infos(t) {
		time.Sleep(time.Second) // a poll's pause
	}
	if left > 0 {
		t.Errorf("%d device-info files are left of pods that are gone", left)
	}
	before := cpu(t, p.pid)
	time.Sleep(time.Minute) // what is measured
	idle := float64(cpu(t, p.pid)-before) / float64(startCPU)
	fmt.Printf("  a minute of nothing             %.2f × the CPU time until the kubelet had all; no device-info file is left; %d lists in all\n",
		idle, p.kubelet.Count(resource))
	if idle > 1 {
		t.Errorf("a minute of nothing takes %.1f × the CPU time of the start, at most 1", idle)
	}
}
