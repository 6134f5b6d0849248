package plugin_test

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

const resource = "intel.com/sriov"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	kubelet *kubelettest.Kubelet
	set     *plugin.Set
	tree    pcitest.Tree
	devInfo devinfo.Dir
}

// newFixture makes a set whose patience is short; the kubelet is not started.
func newFixture(t *testing.T) *fixture {
	f := &fixture{kubelet: kubelettest.New(t), tree: pcitest.New(t), devInfo: devinfo.Dir{Root: filepath.Join(t.TempDir(), "devinfo")}}
	f.set = plugin.NewSet(plugin.Config{
		RegistryDir: f.kubelet.Registry(), DevicePluginDir: f.kubelet.Plugins(), Root: f.tree.Root, DevInfo: f.devInfo,
		Log: slog.New(slog.DiscardHandler),
		Timing: plugin.Timing{
			Look: 5 * time.Millisecond, Unwatched: 150 * time.Millisecond, Reconnect: 50 * time.Millisecond,
			FirstPause: 5 * time.Millisecond, LastPause: 20 * time.Millisecond,
		},
	})
	t.Cleanup(f.set.Close)
	return f
}

func (f *fixture) offer(t *testing.T, devices ...plugin.Device) {
	f.set.Update(t.Context(), []plugin.Resource{{Name: resource, Devices: devices}})
}

func device(id string) plugin.Device { return plugin.Device{ID: id, NUMANode: -1} }

func (f *fixture) sees(t *testing.T, want map[string]string) {
	t.Helper()
	kubelettest.Eventually(t, "the kubelet sees "+strings.Join(slices.Sorted(maps.Keys(want)), ","), func() bool {
		got := f.kubelet.Devices(resource)
		return got != nil && cmp.Equal(want, got)
	})
}

var one = map[string]string{"0000:02:10.0": "Healthy"}

func TestChangesReachTheKubelet(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.offer(t, device("0000:02:10.0"))
	f.sees(t, one)

	sick := device("0000:02:10.2")
	sick.Unhealthy = "no driver is bound to it"
	f.offer(t, device("0000:02:10.0"), sick)
	f.sees(t, map[string]string{"0000:02:10.0": "Healthy", "0000:02:10.2": "Unhealthy"})
	f.offer(t)
	f.sees(t, map[string]string{})
	if got := f.kubelet.Count("registered"); got != 0 {
		t.Errorf("registered %d times by call, although the plugin watcher answered", got)
	}

	f.set.Update(t.Context(), nil)
	entries, err := os.ReadDir(f.kubelet.Registry())
	if err != nil || len(entries) != 0 {
		t.Errorf("sockets left: %v, %v", entries, err)
	}
}

func TestSameDevicesAreNotSentAgain(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	for range 5 {
		f.offer(t, device("0000:02:10.0"))
		f.sees(t, one)
	}
	if got := f.kubelet.Count(resource); got != 1 {
		t.Errorf("the list came %d times, want once", got)
	}
}

func TestKubeletMisbehaves(t *testing.T) {
	tests := map[string]func(t *testing.T, f *fixture){
		"comes late": func(t *testing.T, f *fixture) {
			f.offer(t, device("0000:02:10.0"))
			kubelettest.Eventually(t, "a problem is reported", func() bool { return f.set.Status()[0].Problem != "" })
			f.kubelet.Start()
		},
		"refuses twice": func(t *testing.T, f *fixture) {
			f.kubelet.Refuse = 2
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			if got := f.kubelet.Count("refused"); got != 2 {
				t.Errorf("refused %d times, want 2", got)
			}
		},
		"has a deaf plugin watcher": func(t *testing.T, f *fixture) {
			f.kubelet.Deaf = true
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			if f.kubelet.Count("registered") == 0 {
				t.Error("it was not registered by call")
			}
		},
		"is deaf and refuses": func(t *testing.T, f *fixture) {
			f.kubelet.Deaf, f.kubelet.Refuse = true, 3
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
		},
		"restarts": func(t *testing.T, f *fixture) {
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			f.kubelet.Stop()
			kubelettest.Eventually(t, "the loss is seen", func() bool { return !f.set.Status()[0].Registered })
			f.kubelet.Start()
		},
		"restarts with a deaf plugin watcher": func(t *testing.T, f *fixture) {
			f.kubelet.Deaf = true
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			f.kubelet.Stop()
			f.kubelet.Start()
		},
		"hangs up": func(t *testing.T, f *fixture) {
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			for range 3 {
				f.sees(t, one)
				f.kubelet.HangUp()
				kubelettest.Eventually(t, "the loss is seen", func() bool { return f.kubelet.Devices(resource) == nil })
			}
		},
		"removes our socket": func(t *testing.T, f *fixture) {
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			if err := os.Remove(filepath.Join(f.kubelet.Registry(), "intel.com_sriov.sock")); err != nil {
				t.Fatal(err)
			}
			before := f.kubelet.Count(resource)
			kubelettest.Eventually(t, "it is connected again", func() bool { return f.kubelet.Count(resource) > before })
		},
		"connects twice": func(t *testing.T, f *fixture) {
			f.kubelet.Streams = 2
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.2"))
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
		},
	}
	for name, misbehave := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			misbehave(t, f)
			defer f.kubelet.Stop()
			f.sees(t, one)
			kubelettest.Eventually(t, "it is registered", func() bool { return f.set.Status()[0].Registered })
		})
	}
}

func (f *fixture) allocate(t *testing.T, ids ...string) (*deviceplugin.ContainerAllocateResponse, error) {
	t.Helper()
	kubelettest.Eventually(t, "there is a socket", func() bool { return f.set.Status()[0].Socket != "" })
	conn, err := kubelettest.Dial(f.set.Status()[0].Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	response, err := deviceplugin.NewDevicePluginClient(conn).Allocate(t.Context(), &deviceplugin.AllocateRequest{
		ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}},
	})
	if err != nil {
		return nil, err
	}
	return response.GetContainerResponses()[0], nil
}

func TestAllocate(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.tree.AddIGB("02", "ens2", 4, 2)
	f.tree.Bind("0000:02:10.2", "vfio-pci")
	f.tree.Write("sys/class/vfio/2021/dev", "240:0")
	f.tree.Write("sys/class/misc/vhost-net/dev", "10:238")
	vhost := device("0000:02:10.0")
	vhost.VhostNet = true
	f.set.Update(t.Context(), []plugin.Resource{{
		Name: "intel.com/sriov-dpdk", Devices: []plugin.Device{vhost, device("0000:02:10.2")},
		AdditionalInfo: map[string]map[string]string{"*": {"token": "all", "x": "y"}, "0000:02:10.0": {"token": "one"}},
	}})
	got, err := f.allocate(t, "0000:02:10.0", "0000:02:10.2")
	if err != nil {
		t.Fatal(err)
	}

	envs := got.GetEnvs()
	const ids = "0000:02:10.0,0000:02:10.2"
	for _, name := range []string{"PCIDEVICE_INTEL_COM_SRIOV-DPDK", "PCIDEVICE_INTEL_COM_SRIOV_DPDK"} {
		if diff := cmp.Diff(ids, envs[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var info any
		if err := json.Unmarshal([]byte(envs[name+"_INFO"]), &info); err != nil {
			t.Fatal(err)
		}
		type m = map[string]any
		want := m{
			"0000:02:10.0": m{
				"generic": m{"deviceID": "0000:02:10.0"}, "extra": m{"token": "one", "x": "y"},
				"vhost": m{"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"},
			},
			"0000:02:10.2": m{
				"generic": m{"deviceID": "0000:02:10.2"}, "extra": m{"token": "all", "x": "y"},
				"vfio": m{"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/2021"},
			},
		}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("%s_INFO (-want +got):\n%s", name, diff)
		}
	}
	var nodes []string
	for _, d := range got.GetDevices() {
		nodes = append(nodes, d.GetHostPath()+" "+d.GetContainerPath()+" "+d.GetPermissions())
	}
	want := []string{
		"/dev/vhost-net /dev/vhost-net rw", "/dev/net/tun /dev/net/tun rw", "/dev/vfio/vfio /dev/vfio/vfio rw", "/dev/vfio/2021 /dev/vfio/2021 rw",
	}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Errorf("device nodes (-want +got):\n%s", diff)
	}

	path, err := f.devInfo.DevicePath("intel.com/sriov-dpdk", "0000:02:10.0")
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.devInfo.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	wantInfo := devinfo.Info{Type: "pci", Version: "1.1.0", PCI: &devinfo.PCI{
		Address: "0000:02:10.0", PFAddress: "0000:02:00.0", VhostNet: "/dev/vhost-net",
	}}
	if diff := cmp.Diff(wantInfo, info); diff != "" {
		t.Errorf("device-info (-want +got):\n%s", diff)
	}
}

func TestAllocateRefuses(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.tree.AddIGB("02", "ens2", 4, 2)
	f.tree.Bind("0000:02:10.2", "vfio-pci") // and no node for it
	sick := device("0000:02:10.0")
	sick.Unhealthy = "no driver is bound to it"
	f.offer(t, sick, device("0000:02:10.2"), device("0000:02:10.4"))
	tests := map[string]struct {
		id   string
		code codes.Code
		text string
	}{
		"unknown":          {"0000:99:10.0", codes.NotFound, "0000:99:10.0"},
		"unhealthy":        {"0000:02:10.0", codes.FailedPrecondition, "no driver is bound to it"},
		"without its node": {"0000:02:10.2", codes.Internal, "no vfio node"},
		"gone":             {"0000:02:10.4", codes.Internal, "no such PCI device"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := f.allocate(t, test.id)
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %s with %q", err, test.code, test.text)
			}
		})
	}
}
