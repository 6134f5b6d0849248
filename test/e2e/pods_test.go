//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	networksAnnotation = "k8s.v1.cni.cncf.io/networks"
	statusAnnotation   = "k8s.v1.cni.cncf.io/network-status"
)

// A pod is one of the test's.
type pod struct {
	name     string
	networks string // the annotation; none if empty
	vfs      int    // of the resource that it requests
	dpdk     int    // of dpdkResource
}

// spec is the pod as the API server is sent it.
func (p pod) spec() *corev1.Pod {
	spec := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: namespace},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64), // its shell heeds no signal
			AutomountServiceAccountToken:  new(bool),  // nobody reads it, and each pod would have one more volume
			Containers: []corev1.Container{{
				Name: "main", Image: "localhost/busybox:1", Command: []string{"sleep", "2147483647"},
			}},
		},
	}
	if p.networks != "" {
		spec.Annotations = map[string]string{networksAnnotation: p.networks}
	}
	n := corev1.ResourceList{}
	for name, count := range map[corev1.ResourceName]int{resource: p.vfs, dpdkResource: p.dpdk} {
		if count > 0 {
			n[name] = *apiresource.NewQuantity(int64(count), apiresource.DecimalSI)
		}
	}
	spec.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: n, Limits: n}
	return spec
}

// create makes the pod. When the test ends it is deleted, and gone.
func (p pod) create(t *testing.T) {
	t.Helper()
	if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), p.spec(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.remove(context.WithoutCancel(t.Context()), t) })
}

// remove deletes the pod, if it is there, and waits until it is gone.
func (p pod) remove(ctx context.Context, t *testing.T) {
	t.Helper()
	err := client.CoreV1().Pods(namespace).Delete(ctx, p.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	err = poll(ctx, func(ctx context.Context) error {
		_, getErr := client.CoreV1().Pods(namespace).Get(ctx, p.name, metav1.GetOptions{})
		if apierrors.IsNotFound(getErr) {
			return nil
		}
		return errors.Join(getErr, fmt.Errorf("pod %s is still there", p.name))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// get reads the pod from the API.
func (p pod) get(ctx context.Context) (*corev1.Pod, error) {
	return client.CoreV1().Pods(namespace).Get(ctx, p.name, metav1.GetOptions{})
}

// running waits until the pod runs.
func (p pod) running(t *testing.T) {
	t.Helper()
	err := poll(t.Context(), func(ctx context.Context) error {
		got, err := p.get(ctx)
		if err != nil {
			return err
		}
		if why := rejected(got); why != "" {
			t.Fatalf("the kubelet rejected pod %s: %s", p.name, why)
		}
		if got.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s", got.Status.Phase)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("waiting for pod %s to run: %v; events: %q", p.name, err, p.events(t.Context()))
	}
}

// unschedulable waits until the pod is Pending on no node, because of what the scheduler says of it: its event comes first.
func (p pod) unschedulable(t *testing.T, why string) {
	t.Helper()
	says := func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, why)
	}
	eventually(t, fmt.Sprintf("pod %s to be Pending, as the scheduler says %q", p.name, why), func(ctx context.Context) error {
		got, err := p.get(ctx)
		if err == nil && (got.Status.Phase != corev1.PodPending || got.Spec.NodeName != "" || !slices.ContainsFunc(got.Status.Conditions, says)) {
			err = fmt.Errorf("it is %s on node %q, with conditions %+v", got.Status.Phase, got.Spec.NodeName, got.Status.Conditions)
		}
		return err
	})
}

// exec runs a command in the pod's container and returns what it prints. Its error holds what it says about it. It enters the
// container's namespaces itself: by way of API server, kubelet and runtime, a command takes the emulated CPU five seconds.
func (p pod) exec(ctx context.Context, argv ...string) (string, error) {
	pid, environ, err := p.process()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, argv...)...)
	cmd.Env = environ
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%q in pod %s: %w: %s", argv, p.name, err, bytes.TrimSpace(exit.Stderr))
	}
	return strings.TrimSpace(string(out)), err
}

// process finds the first process of the pod's container, and the environment that the runtime gave it.
func (p pod) process() (pid string, environ []string, err error) {
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return "", nil, err
	}
	for _, path := range found {
		dir := filepath.Dir(path)
		data, environErr := os.ReadFile(path)
		status, statusErr := os.ReadFile(filepath.Join(dir, "status"))
		if environErr != nil || statusErr != nil {
			continue // it ended meanwhile
		}
		environ := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		// The kubelet names the host as the pod. The container's processes have a PID namespace of their own.
		if slices.Contains(environ, "HOSTNAME="+p.name) && firstInNamespace.Match(status) {
			return filepath.Base(dir), environ, nil
		}
	}
	return "", nil, fmt.Errorf("pod %s has no process on the node", p.name)
}

var firstInNamespace = regexp.MustCompile(`(?m)^NSpid:\t\d+\t1$`)

// devices are the PCI addresses of the pod's VFs, as its environment has them.
func (p pod) devices(t *testing.T) []string {
	t.Helper()
	out, err := p.exec(t.Context(), "sh", "-c", "echo $PCIDEVICE_INTEL_COM_SRIOV")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(out, ",")
}

// A podNetwork is an entry of network-status.
type podNetwork struct {
	Name       string   `json:"name"`
	Interface  string   `json:"interface"`
	IPs        []string `json:"ips"`
	MAC        string   `json:"mac"`
	Default    bool     `json:"default"`
	DeviceInfo *struct {
		PCI struct {
			Address string `json:"pci-address"`
		} `json:"pci"`
	} `json:"device-info"`
}

// status is the pod's network-status.
func (p pod) status(t *testing.T) []podNetwork {
	t.Helper()
	var status []podNetwork
	eventually(t, "the network-status of "+p.name, func(ctx context.Context) error {
		got, err := p.get(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(got.Annotations[statusAnnotation]), &status)
	})
	return status
}

// event waits for an event on the pod that holds all the words.
func (p pod) event(t *testing.T, reason string, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("an event %s on pod %s that says %q", reason, p.name, words), func(ctx context.Context) error {
		got := p.events(ctx)
		says := func(event string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(event, w) })
		}
		for _, e := range got {
			if strings.HasPrefix(e, reason+": ") && says(e) {
				t.Logf("event: %s", e)
				return nil
			}
		}
		return fmt.Errorf("its events: %q", got)
	})
}

// events are the pod's, each "reason: message".
func (p pod) events(ctx context.Context) []string {
	list, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.name})
	if err != nil {
		return []string{err.Error()}
	}
	var events []string
	for _, e := range list.Items {
		events = append(events, e.Reason+": "+e.Message)
	}
	return events
}

// pings reports whether the pod reaches addr through its link.
func (p pod) pings(ctx context.Context, link, addr string) error {
	_, err := p.exec(ctx, "ping", "-c", "1", "-W", "3", "-I", link, addr)
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return err
	}
	if err != nil {
		return fmt.Errorf("no answer to %s from %s: %w", p.name, addr, err)
	}
	return nil
}
