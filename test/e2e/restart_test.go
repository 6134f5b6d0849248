//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestRestarts kills the device plugin, the kubelet, and both, while a pod has a VF. The VF stays that pod's, and all others
// are there for the next one.
func TestRestarts(t *testing.T) {
	leaveNothing(t)
	holder := pod{name: "stays", networks: "vlan100", vfs: 1}
	holder.create(t)
	holder.running(t)
	device := holder.devices(t)[0]
	want, entry := holder.container(t), mustLook(t).VFs[device]
	for _, names := range [][]string{{"device-plugin"}, {"kubelet"}, {"kubelet", "device-plugin"}} {
		t.Run(strings.Join(names, " and "), func(t *testing.T) {
			for _, name := range names {
				kill(t, name)
			}
			eventually(t, "the device plugin to be ready", pluginIsReady)
			eventually(t, "the node to offer its VFs", func(ctx context.Context) error {
				free, err := allocatable(ctx)
				if err == nil && free != len(baseline.VFs) {
					err = fmt.Errorf("it offers %d, want %d", free, len(baseline.VFs))
				}
				return err
			})
			next := pod{name: "next-" + strconv.Itoa(len(names)) + names[0], vfs: len(baseline.VFs) - 1}
			next.create(t)
			next.running(t)
			if got := next.devices(t); slices.Contains(got, device) || len(got) != next.vfs {
				t.Errorf("the next pod has %v: want all but %s, which another has", got, device)
			}
			if diff := cmp.Diff(want, holder.container(t)); diff != "" {
				t.Errorf("the pod's container (-before +now):\n%s", diff)
			}
			if diff := cmp.Diff(entry, mustLook(t).VFs[device]); diff != "" {
				t.Errorf("its VF (-before +now):\n%s", diff)
			}
		})
	}
}

// container is what must not change of a pod's container while it runs.
func (p pod) container(t *testing.T) (same struct{ ID, Phase string }) {
	t.Helper()
	got, err := p.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same.Phase = string(got.Status.Phase)
	if len(got.Status.ContainerStatuses) == 1 {
		same.ID = got.Status.ContainerStatuses[0].ContainerID
	}
	return same
}

// kill ends the node's process of this name as a crash does, and waits for the next one.
func kill(t *testing.T, name string) {
	t.Helper()
	before := processes(t, name)
	if len(before) != 1 {
		t.Fatalf("%d processes called %s, want one", len(before), name)
	}
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, name+" to run again", func(context.Context) error {
		now := processes(t, name)
		if len(now) != 1 || now[0] == before[0] {
			return fmt.Errorf("its processes: %v; killed: %v", now, before)
		}
		return nil
	})
}

func processes(t *testing.T, name string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		comm, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue // it ended meanwhile, or is another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// pluginIsReady asks where the kubelet does.
func pluginIsReady(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9808/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	return err
}

// rejected says why the kubelet did not admit a pod, for good; empty: it did, or may yet.
func rejected(p *corev1.Pod) string {
	if p.Status.Phase != corev1.PodFailed {
		return ""
	}
	return p.Status.Reason + ": " + p.Status.Message
}
