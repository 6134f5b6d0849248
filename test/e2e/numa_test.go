//go:build cluster && numa

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNUMA has a kubelet that gives pods CPUs and devices of one NUMA node or nothing. CPU 0, all of node 0, is the system's,
// so a pod's CPU is on node 1, and so must be its VFs, though the device plugin by itself would have given others: they are
// equally free, and node 0 comes first.
func TestNUMA(t *testing.T) {
	if runtime.NumCPU() < 3 {
		t.Fatal("it takes a node with three CPUs: make test-numa")
	}
	leaveNothing(t)
	onNode := vfsOnNode(t)
	alignNUMA(t)

	first := pinned{pod{name: "aligned", vfs: len(onNode["1"])}}
	first.create(t)
	first.running(t)
	first.isOnNode(t, "1", "1")
	first.remove(t.Context(), t)

	// Who asks for no CPU gets VFs of node 0, and the next of node 1.
	low, high := pod{name: "low", vfs: len(onNode["0"])}, pod{name: "high", vfs: len(onNode["1"])}
	for _, p := range []pod{low, high} {
		p.create(t)
		p.running(t)
	}
	if got := numaNode(t, high.devices(t)[0]); got != "1" {
		t.Fatalf("pod high has VFs of node %s, want node 1", got)
	}
	low.remove(t.Context(), t)
	second := pinned{pod{name: "apart", vfs: 1}}
	second.create(t)
	if err := second.admitted(t); err == nil || !strings.Contains(err.Error(), "TopologyAffinityError") {
		t.Fatalf("a pod that asks for a CPU, left on node 1, and for a VF, left on node 0: %v, want a TopologyAffinityError", err)
	}
	second.remove(t.Context(), t)

	shipped := pools(t)
	t.Cleanup(func() { setPools(t, shipped) })
	exclude, err := os.ReadFile("testdata/excludetopology.json")
	if err != nil {
		t.Fatal(err)
	}
	setPools(t, string(exclude))
	tries := 0
	eventually(t, "the kubelet to give a VF of any node", func(ctx context.Context) error {
		tries++
		second = pinned{pod{name: fmt.Sprintf("apart-%d", tries), vfs: 1}}
		second.create(t)
		err := second.admitted(t)
		if err != nil {
			second.remove(ctx, t)
		}
		return err
	})
	second.isOnNode(t, "1", "0")
}

// A pinned pod has a CPU for itself.
type pinned struct{ pod }

func (p pinned) create(t *testing.T) {
	t.Helper()
	spec := p.spec()
	r := spec.Spec.Containers[0].Resources // its maps are both one
	r.Limits[corev1.ResourceCPU] = apiresource.MustParse("1")
	r.Limits[corev1.ResourceMemory] = apiresource.MustParse("32Mi")
	if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), spec, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.remove(context.WithoutCancel(t.Context()), t) })
}

// admitted waits for the kubelet's answer, and returns its reason if it is no.
func (p pinned) admitted(t *testing.T) (refusal error) {
	t.Helper()
	eventually(t, "the kubelet to take or refuse pod "+p.name, func(ctx context.Context) error {
		got, err := p.get(ctx)
		if err != nil {
			return err
		}
		refusal = nil
		if why := rejected(got); why != "" {
			refusal = errors.New(why)
		} else if got.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s; events: %s", got.Status.Phase, p.events(ctx))
		}
		return nil
	})
	return refusal
}

// isOnNode checks the NUMA nodes of the pod's CPU and of its VFs.
func (p pinned) isOnNode(t *testing.T, cpuNode, vfNode string) {
	t.Helper()
	cpu, err := p.exec(t.Context(), "sed", "-n", `s/^Cpus_allowed_list:[[:space:]]*//p`, "/proc/1/status")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/sys/devices/system/cpu/cpu"+cpu, "node"+cpuNode)); err != nil {
		t.Errorf("pod %s has CPU %s: %v, want one of node %s", p.name, cpu, err, cpuNode)
	}
	for _, vf := range p.devices(t) {
		if got := numaNode(t, vf); got != vfNode {
			t.Errorf("pod %s has VF %s of node %s, want node %s", p.name, vf, got, vfNode)
		}
	}
	t.Logf("pod %s: CPU %s, VFs %v", p.name, cpu, p.devices(t))
}

func vfsOnNode(t *testing.T) map[string][]string {
	t.Helper()
	on := map[string][]string{}
	for vf := range baseline.VFs {
		node := numaNode(t, vf)
		on[node] = append(on[node], vf)
	}
	if len(on["0"]) != len(on["1"]) || len(on["0"]) == 0 {
		t.Fatalf("the NUMA nodes have VFs %v, want as many on node 0 as on node 1", on)
	}
	return on
}

func numaNode(t *testing.T, device string) string {
	t.Helper()
	node, err := os.ReadFile(filepath.Join("/sys/bus/pci/devices", device, "numa_node"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(node))
}

// kubeletConfig is what the cluster starts the kubelet with.
const kubeletConfig = "/run/node/kubelet.yaml"

// alignNUMA starts the kubelet again with the policies that align, and when the test ends with those it had.
func alignNUMA(t *testing.T) {
	t.Helper()
	before, err := os.ReadFile(kubeletConfig)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(config string) {
		t.Helper()
		if err := restartKubelet(context.WithoutCancel(t.Context()), processes(t, "kubelet"), config); err != nil {
			t.Errorf("restart the kubelet with another configuration: %v", err)
		}
	}
	t.Cleanup(func() { restart(string(before)) })
	restart(string(before) + `
cpuManagerPolicy: static
topologyManagerPolicy: single-numa-node
reservedSystemCPUs: "0"
`)
}

func restartKubelet(ctx context.Context, pids []int, config string) error {
	if len(pids) != 1 {
		return fmt.Errorf("%d kubelets run, want one", len(pids))
	}
	err := errors.Join(
		syscall.Kill(pids[0], syscall.SIGSTOP),          // else it may write its state again
		os.Remove("/var/lib/kubelet/cpu_manager_state"), // it refuses to start on another policy's
		os.WriteFile(kubeletConfig, []byte(config), 0o600),
		syscall.Kill(pids[0], syscall.SIGKILL),
	)
	if err != nil {
		return err
	}
	err = poll(ctx, func(context.Context) error {
		if _, err := os.Stat("/var/lib/kubelet/cpu_manager_state"); err != nil {
			return fmt.Errorf("it does not run yet: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return poll(ctx, func(ctx context.Context) error { return errors.Join(deployed(ctx), pluginIsReady(ctx)) })
}

func pools(t *testing.T) string {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("viaduct").Get(context.WithoutCancel(t.Context()), poolsMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data[poolsKey]
}
