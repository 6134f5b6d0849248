//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "e2e"
	resource  = "intel.com/sriov"
	// dpdkResource is what only testdata/dpdk.json offers.
	dpdkResource = "intel.com/dpdk"

	// patience bounds a wait for anything. A VM without hardware support on a busy machine is some 20 times slower than
	// a node; what passes, passes long before.
	patience = 8 * time.Minute
)

// client is the cluster's, with all rights, and definitions its NetworkAttachmentDefinitions.
var (
	client      kubernetes.Interface
	definitions dynamic.NamespaceableResourceInterface
	config      *rest.Config
)

func TestMain(m *testing.M) {
	if err := comeUp(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "come up:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// comeUp waits until the node offers its VFs and the meta CNI is what containerd calls: the cluster was started with conf/, as
// a user would apply it, and with the networks of testdata.
func comeUp(ctx context.Context) error {
	var err error
	config, err = clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return fmt.Errorf("find the cluster (make test-cluster starts one): %w", err)
	}
	config.QPS = -1 // the API server is ours alone
	if err := connect(); err != nil {
		return err
	}
	if _, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil {
		return fmt.Errorf("find what the cluster was to be started with, --apply conf --apply test/e2e/testdata/networks.yaml: %w", err)
	}
	start := time.Now()
	if err := poll(ctx, deployed); err != nil {
		return err
	}
	if baseline, err = look(); err != nil {
		return fmt.Errorf("look at the node: %w", err)
	}
	fmt.Printf("deployed in %s\n", time.Since(start).Round(time.Second))
	return nil
}

// connect makes the clients from config.
func connect() error {
	all, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	definitions = all.Resource(schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"})
	fast := rest.CopyConfig(config)
	fast.ContentType = "application/vnd.kubernetes.protobuf"
	client, err = kubernetes.NewForConfig(fast)
	return err
}

// deployed says what is still missing.
func deployed(ctx context.Context) error {
	sets, err := client.AppsV1().DaemonSets("viaduct").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(sets.Items) != 2 {
		return fmt.Errorf("%d DaemonSets in namespace viaduct, want 2", len(sets.Items))
	}
	for _, s := range sets.Items {
		if !rolledOut(s) {
			return fmt.Errorf("DaemonSet %s: %+v", s.Name, s.Status)
		}
	}
	if _, err := os.Stat("/etc/cni/net.d/00-viaduct.conflist"); err != nil {
		return err
	}
	vfs, err := filepath.Glob("/sys/bus/pci/devices/*/physfn")
	if err != nil {
		return err
	}
	if free, err := allocatable(ctx); err != nil || free != len(vfs) {
		return errors.Join(err, fmt.Errorf("the node offers %d %s, it has %d VFs", free, resource, len(vfs)))
	}
	return nil
}

func rolledOut(s appsv1.DaemonSet) bool {
	return s.Status.ObservedGeneration == s.Generation && s.Status.DesiredNumberScheduled > 0 &&
		s.Status.UpdatedNumberScheduled == s.Status.DesiredNumberScheduled && // else it is an old pod that is ready
		s.Status.NumberReady == s.Status.DesiredNumberScheduled
}

// allocatable is how many VFs the node offers, allocated ones included.
func allocatable(ctx context.Context) (int, error) { return offers(ctx, resource) }

func offers(ctx context.Context, name corev1.ResourceName) (int, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	quantity := nodes.Items[0].Status.Allocatable[name]
	return int(quantity.Value()), nil
}

const poolsMap, poolsKey = "sriovdp-config", "config.json"

// setPools gives the device plugin a configuration. It follows by itself.
func setPools(t *testing.T, config string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{poolsKey: config}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().ConfigMaps("viaduct").Patch(context.WithoutCancel(t.Context()), poolsMap, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// poll calls check until it returns nil, for patience at most. Its error is then check's last. It looks soon, and then ever
// less often: a look takes time from what it waits for, as the test shares the node's CPU.
func poll(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, 2*time.Second) {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not after %s: %w", patience, err)
		case <-time.After(pause):
		}
	}
}

// eventually is poll for a test: what completes "waiting for …".
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := poll(t.Context(), check); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}
