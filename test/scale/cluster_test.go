//go:build scale

package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

const namespace = "fleet"

var definitionResource = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}

// A cluster is the real API server that bin/cluster runs, without a node: who else would write to it, the test plays.
type cluster struct {
	server     string // host:port
	kubeconfig []byte
	kube       kubernetes.Interface
	dyn        dynamic.Interface
}

func connect(t *testing.T) *cluster {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatalf("find the API server (make scale starts one): %v", err)
	}
	config.QPS = -1 // what it can take is not the question
	at, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{server: at.Host}
	if c.kubeconfig, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if c.dyn, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "kubectl", "apply", "-f", "../../conf/meta-agent/crd.yaml").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace's service account", func() error {
		_, err := c.kube.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return c
}

// define makes definition number i, or changes it to the given MTU. It needs no device, so that the agent asks no kubelet.
func (c *cluster) define(t *testing.T, i, mtu int) {
	t.Helper()
	config := fmt.Sprintf(`{"cniVersion":"1.0.0","type":"macvlan","master":"eth1","mtu":%d,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.56.%d.0/24"}]]}}`, mtu, i%256)
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": fmt.Sprintf("net-%d", i), "namespace": namespace},
		"spec":     map[string]any{"config": config},
	}}
	definitions := c.dyn.Resource(definitionResource).Namespace(namespace)
	eventually(t, "the API server takes a definition", func() error { // which it does some time after their kind
		_, err := definitions.Create(t.Context(), obj, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"config": config}})
		if err == nil {
			_, err = definitions.Patch(t.Context(), fmt.Sprintf("net-%d", i), types.MergePatchType, patch, metav1.PatchOptions{})
		}
		return err
	})
}

// definitionSize is how long a definition is, on average, as the API server writes it.
func (c *cluster) definitionSize(t *testing.T) int {
	t.Helper()
	list, err := c.dyn.Resource(definitionResource).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return len(text) / len(list.Items)
}

// createPod makes a pod on a node, as the scheduler leaves it. There is no object for the node: with one, whose kubelet is
// silent, a controller would write to its pods, too.
func (c *cluster) createPod(t *testing.T, node, name, definition string) network.Pod {
	t.Helper()
	pod, err := c.kube.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{network.NetworksAnnotation: definition},
			Labels: map[string]string{"app.kubernetes.io/name": "till", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5f6b8d7c9"},
		},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "localhost/busybox:1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return network.Pod{Namespace: namespace, Name: name, UID: string(pod.UID)}
}

// setStatus is what a kubelet writes of a pod: when it has seen it, when it runs, and when it has ended.
func (c *cluster) setStatus(t *testing.T, pod network.Pod, phase corev1.PodPhase) {
	t.Helper()
	ready := corev1.ConditionFalse
	if phase == corev1.PodRunning {
		ready = corev1.ConditionTrue
	}
	var conditions []corev1.PodCondition
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReadyToStartContainers, corev1.ContainersReady, corev1.PodReady} {
		conditions = append(conditions, corev1.PodCondition{Type: kind, Status: ready, LastTransitionTime: metav1.Now()})
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": corev1.PodStatus{
		Phase: phase, Conditions: conditions, HostIP: "10.0.0.1", PodIP: "10.244.0.7", StartTime: new(metav1.Now()),
		ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Image: "localhost/busybox:1", Ready: phase == corev1.PodRunning, ContainerID: "containerd://0123456789abcdef"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.kube.CoreV1().Pods(namespace).Patch(t.Context(), pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "kubelet"}, "status")
	if err != nil {
		t.Fatal(err)
	}
}

// deletePod is a deletion by a person, with its time of grace, or the kubelet's, which ends it.
func (c *cluster) deletePod(t *testing.T, pod network.Pod, grace int64) {
	t.Helper()
	if err := c.kube.CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("still not after 5 minutes: %s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
