//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// faults are all that TestSurvive knows. Of each three neighbours CI takes one a day; the days take about the same time.
func faults() []fault {
	return []fault{
		{name: "containerd restarted", strike: killed("containerd")},
		{name: "kubelet restarted", strike: killed("kubelet")},
		{name: "device plugin killed", strike: killed("device-plugin")},

		{name: "PF's link down and up", strike: setPFDown},
		{name: "stub killed in an ADD", strike: killStub},
		{name: "agent killed", strike: killed("meta-agent")},

		{name: "DaemonSets upgraded and rolled back", strike: upgrade},
		{name: "numvfs changed under a pod", strike: changeNumVFs, rest: true},
		{name: "kubelet and device plugin killed", strike: killed("kubelet", "device-plugin"), rest: true},

		{name: "disk full", strike: fillDisks},
		{name: "NAD deleted under running pods", strike: deleteNAD},
		{name: "driver of a pod's VF unbound", strike: unbindVF},

		{name: "clock an hour ahead, and back", strike: jump},
		{name: "API server away", strike: loseAPIServer},
		{name: "ConfigMap broken and mended", strike: breakConfigMap},
	}
}

// killed ends the node's processes of these names as crashes do. Somebody starts each again.
func killed(names ...string) func(*testing.T, *survival) {
	return func(t *testing.T, _ *survival) {
		for _, name := range names {
			kill(t, name)
		}
	}
}

// killStub kills meta-cni while it adds a pod: at once in CI, otherwise anywhere in its life.
func killStub(t *testing.T, s *survival) {
	adds := func(pid int) bool {
		environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		return err == nil && strings.Contains(string(environ), "CNI_COMMAND=ADD\x00") && strings.Contains(string(environ), "K8S_POD_NAMESPACE="+namespace+";")
	}
	var after time.Duration
	if *surviveFor > 0 {
		after = time.Duration(s.random.IntN(400)) * time.Millisecond
	}
	catch(t, "meta-cni", func(pid int) bool {
		if !adds(pid) {
			return false
		}
		time.Sleep(after)
		return adds(pid) && syscall.Kill(pid, syscall.SIGKILL) == nil
	})
}

// upgrade rolls both DaemonSets out anew, and back. The plugins on the node are other files each time, so both init containers
// replace what runs.
func upgrade(t *testing.T, s *survival) {
	for _, release := range []string{"upgrade", "rollback"} {
		want := otherPlugins(t)
		for _, name := range []string{"device-plugin", "meta-agent"} {
			patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"release":"%s-%d"}}}}}`, release, len(s.rows))
			_, err := client.AppsV1().DaemonSets("viaduct").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, release, deployed)
		for path, size := range want {
			if info, err := os.Stat(path); err != nil || info.Size() != size {
				t.Errorf("%s: %s was not replaced: %v", release, path, err)
			}
		}
	}
}

// otherPlugins makes the node's plugins differ from what is installed, as another release's do, by a byte at their end. It
// returns the sizes that an install makes.
func otherPlugins(t *testing.T) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for _, name := range []string{"sriov", "meta-cni"} {
		path := filepath.Join("/opt/cni/bin", name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes[path] = int64(len(data))
		if err := errors.Join(os.WriteFile(path+".other", append(data, 0), 0o755), os.Rename(path+".other", path)); err != nil {
			t.Fatal(err)
		}
	}
	return sizes
}

// breakConfigMap writes a configuration that is not even JSON, and mends it when the device plugin has refused it.
func breakConfigMap(t *testing.T, s *survival) {
	good := writePools(t, `{"resourceList": [{"resourceName": "sriov", "selectors": {"vendors": ["8086"`)
	defer func() {
		writePools(t, good)
		eventually(t, "the device plugin to see the mended configuration", configHasFaults(false))
	}()
	eventually(t, "the device plugin to see the fault", configHasFaults(true))
	if err := s.offers(len(s.settled.VFs))(t.Context()); err != nil {
		t.Errorf("with a broken configuration: %v", err)
	}
	s.stream.another(t, "with a broken configuration")
}

// writePools replaces the pools' configuration, and returns what it was.
func writePools(t *testing.T, pools string) (before string) {
	t.Helper()
	ctx, maps := context.WithoutCancel(t.Context()), client.CoreV1().ConfigMaps("viaduct")
	m, err := maps.Get(ctx, poolsMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, m.Data[poolsKey] = m.Data[poolsKey], pools
	if m, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The kubelet brings it to the node with the pod's next sync, which a change of the pod makes now.
	pods, err := client.CoreV1().Pods("viaduct").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=device-plugin"})
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"configuration":%q}}}`, m.ResourceVersion)
	for _, p := range pods.Items {
		if _, err := client.CoreV1().Pods("viaduct").Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return before
}

// configHasFaults asks the device plugin whether its configuration has any.
func configHasFaults(want bool) func(context.Context) error {
	return func(ctx context.Context) error {
		text, err := ask(ctx, pluginPort, "metrics")
		if err != nil {
			return err
		}
		_, after, found := strings.Cut(text, "\nviaduct_device_plugin_config_faults ")
		n, _, _ := strings.Cut(after, "\n")
		if !found || (n != "0") != want {
			return fmt.Errorf("it has %q faults", n)
		}
		return nil
	}
}

// deleteNAD deletes the network that all pods here have. One of them ends without it, and one waits for it.
func deleteNAD(t *testing.T, s *survival) {
	leaves := pod{name: fmt.Sprintf("leaves-%d", len(s.rows)), networks: "vlan100", vfs: 1}
	leaves.create(t)
	leaves.running(t)
	mine := definitions.Namespace(namespace)
	network, err := mine.Get(t.Context(), "vlan100", metav1.GetOptions{})
	if err == nil {
		err = mine.Delete(t.Context(), "vlan100", metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		network.SetResourceVersion("")
		if _, err := mine.Create(context.WithoutCancel(t.Context()), network, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}()
	leaves.remove(t.Context(), t)
	s.stream.told(t, namespace+"/vlan100", "NoDefinition")
}
