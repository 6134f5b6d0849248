package plugin_test

import (
	"bytes"
	"context"
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
	"golang.org/x/sys/unix"

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

// newFixture makes a set that looks often; the kubelet is not started.
func newFixture(t *testing.T) *fixture {
	f := &fixture{kubelet: kubelettest.New(t), tree: pcitest.New(t), devInfo: devinfo.Dir{Root: filepath.Join(t.TempDir(), "devinfo")}}
	// Long enough for the plugin watcher of a busy machine.
	f.makeSet(t, time.Minute)
	return f
}

// deaf makes a kubelet without a plugin watcher, and a set that soon finds out.
func (f *fixture) deaf(t *testing.T) {
	f.kubelet.Deaf = true
	f.makeSet(t, 150*time.Millisecond)
}

func (f *fixture) makeSet(t *testing.T, unwatched time.Duration) {
	f.set = plugin.NewSet(plugin.Config{
		RegistryDir: f.kubelet.Registry(), DevicePluginDir: f.kubelet.Plugins(), Root: f.tree.Root, DevInfo: f.devInfo,
		Log: slog.New(slog.DiscardHandler),
		Timing: plugin.Timing{
			Look: 5 * time.Millisecond, Unwatched: unwatched, Reconnect: 50 * time.Millisecond,
			FirstPause: 5 * time.Millisecond, LastPause: 20 * time.Millisecond,
		},
	})
	t.Cleanup(f.set.Close)
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
			f.deaf(t)
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			if f.kubelet.Count("registered") == 0 {
				t.Error("it was not registered by call")
			}
		},
		"is deaf and refuses": func(t *testing.T, f *fixture) {
			f.deaf(t)
			f.kubelet.Refuse = 3
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
			f.deaf(t)
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
		"loses its folders": func(t *testing.T, f *fixture) {
			f.kubelet.Start()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			f.kubelet.Stop()
			for _, dir := range []string{f.kubelet.Registry(), f.kubelet.Plugins()} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			kubelettest.Eventually(t, "a problem is reported", func() bool {
				return strings.Contains(f.set.Status()[0].Problem, "has not made its folders yet")
			})
			f.kubelet.Start()
		},
		"has a file in our socket's place": func(t *testing.T, f *fixture) {
			f.deaf(t)
			f.kubelet.Start()
			if err := os.WriteFile(filepath.Join(f.kubelet.Registry(), "intel.com_sriov.sock"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			f.offer(t, device("0000:02:10.0"))
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

// A name that makes a longer path than a socket can have must not keep the resource from the kubelet.
func TestLongName(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	name := strings.Repeat("a", 63) + ".example.org/" + strings.Repeat("b", 63)
	f.set.Update(t.Context(), []plugin.Resource{{Name: name, Devices: []plugin.Device{device("0000:02:10.0")}}})
	kubelettest.Eventually(t, "the kubelet has it", func() bool { return cmp.Equal(one, f.kubelet.Devices(name)) })
}

// Who may connect may allocate, so nobody but root does. The kernel asks the socket's mode.
func TestSocketsAreRootsAlone(t *testing.T) {
	for name, where := range map[string]func(*kubelettest.Kubelet) string{
		"plugin watcher": (*kubelettest.Kubelet).Registry, "registered by call": (*kubelettest.Kubelet).Plugins,
	} {
		t.Run(name, func(t *testing.T) {
			defer unix.Umask(unix.Umask(0)) // with which a socket is everybody's
			f := newFixture(t)
			if name == "registered by call" {
				f.deaf(t)
			}
			f.kubelet.Start()
			defer f.kubelet.Stop()
			f.offer(t, device("0000:02:10.0"))
			f.sees(t, one)
			info, err := os.Stat(filepath.Join(where(f.kubelet), "intel.com_sriov.sock"))
			if err != nil {
				t.Fatal(err)
			}
			if want := os.ModeSocket | 0o600; info.Mode() != want {
				t.Errorf("mode %s, want %s", info.Mode(), want)
			}
		})
	}
}

// A socket that the kubelet can see is one that answers.
func TestServesBeforeItShows(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	for range 20 {
		f.offer(t, device("0000:02:10.0"))
		f.sees(t, one)
		f.set.Update(t.Context(), nil)
		// Or the next sight of the device is still this one, and the next socket gone before it was dialed.
		kubelettest.Eventually(t, "the kubelet sees the end", func() bool { return len(f.kubelet.Devices(resource)) == 0 })
	}
	if got := f.kubelet.Count("unanswered"); got != 0 {
		t.Errorf("the kubelet dialed %d times in vain", got)
	}
}

func TestTopology(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	unknown := device("0000:02:10.0")
	on1 := plugin.Device{ID: "0000:02:10.2", NUMANode: 1}
	for _, test := range []struct {
		exclude bool
		want    map[string][]int64
	}{
		{false, map[string][]int64{"0000:02:10.0": nil, "0000:02:10.2": {1}}},
		{true, map[string][]int64{"0000:02:10.0": nil, "0000:02:10.2": nil}},
	} {
		f.set.Update(t.Context(), []plugin.Resource{{Name: resource, ExcludeTopology: test.exclude, Devices: []plugin.Device{unknown, on1}}})
		kubelettest.Eventually(t, "the kubelet knows the NUMA nodes", func() bool { return cmp.Equal(test.want, f.kubelet.Nodes(resource)) })
	}
}

// The log has each change of a device once, with the reason that holds now.
func TestChangesAreLogged(t *testing.T) {
	var log bytes.Buffer
	set := plugin.NewSet(plugin.Config{RegistryDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // its servers end at once, and log nothing
	offer := func(devices ...plugin.Device) (lines []string) {
		log.Reset()
		set.Update(ctx, []plugin.Resource{{Name: resource, Devices: devices}})
		for line := range strings.Lines(log.String()) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "level=")
			lines = append(lines, strings.ReplaceAll(line, " resource="+resource, ""))
		}
		return lines
	}
	sick := func(why string) plugin.Device { return plugin.Device{ID: "vf0", Unhealthy: why} }
	offer()
	steps := []struct {
		devices []plugin.Device
		want    []string
	}{
		{[]plugin.Device{device("vf0")}, []string{`INFO msg="device joins" device=vf0 unhealthy=""`}},
		{[]plugin.Device{sick("no driver")}, []string{`WARN msg="device is unhealthy" device=vf0 reason="no driver"`}},
		{[]plugin.Device{sick("no driver")}, nil},
		{[]plugin.Device{sick("it is gone")}, []string{`WARN msg="device is unhealthy" device=vf0 reason="it is gone"`}},
		{[]plugin.Device{device("vf0")}, []string{`INFO msg="device is healthy again" device=vf0`}},
		{nil, []string{`INFO msg="device leaves" device=vf0`}},
	}
	for _, s := range steps {
		if diff := cmp.Diff(s.want, offer(s.devices...)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", s.devices, diff)
		}
	}
}
