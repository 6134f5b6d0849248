//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// agentToken makes a token of the agent's as the kubelet does for its pod, and a client that has it and nothing else. Without
// a pod it is one that nobody on a node has.
func agentToken(t *testing.T, boundTo *corev1.Pod) kubernetes.Interface {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if boundTo != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: boundTo.Name, UID: boundTo.UID}
	}
	token, err := client.CoreV1().ServiceAccounts("viaduct").CreateToken(t.Context(), "meta-agent", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	own = rest.AnonymousClientConfig(own)
	own.BearerToken = token.Status.Token
	thief, err := kubernetes.NewForConfig(own)
	if err != nil {
		t.Fatal(err)
	}
	return thief
}

// imposter makes a pod with the agent's account that is on another node, so that nobody runs it.
func imposter(t *testing.T) *corev1.Pod {
	t.Helper()
	made, err := client.CoreV1().Pods("viaduct").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "imposter"},
		Spec: corev1.PodSpec{
			NodeName: "elsewhere", ServiceAccountName: "meta-agent", Containers: []corev1.Container{{Name: "main", Image: "localhost/busybox:1"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestStolenToken tries what must not work with a token of the agent's, of this node, of another and of none.
func TestStolenToken(t *testing.T) {
	leaveNothing(t)
	victim := pod{name: "victim"}
	victim.create(t)
	victim.running(t)
	victim.status(t) // the agent itself could publish it, under the policy

	running, err := victim.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	agents, err := client.CoreV1().Pods("viaduct").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=meta-agent"})
	if err != nil || len(agents.Items) != 1 {
		t.Fatalf("pods of the agent: %v, %v", agents.Items, err)
	}
	away := imposter(t)
	remove := func(ctx context.Context) error {
		return client.CoreV1().Pods("viaduct").Delete(ctx, away.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	}
	t.Cleanup(func() { _ = remove(context.WithoutCancel(t.Context())) })
	here, elsewhere, unbound := agentToken(t, &agents.Items[0]), agentToken(t, away), agentToken(t, nil)

	patch := func(by kubernetes.Interface, namespace, name, text string, subresource ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := by.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, []byte(text), metav1.PatchOptions{}, subresource...)
			return err
		}
	}
	event := func(host string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := here.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Name: "said-of-victim"},
				InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: victim.name, UID: running.UID},
				Type:           corev1.EventTypeWarning, Reason: "InvalidNetwork", Source: corev1.EventSource{Component: "meta-agent", Host: host},
			}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}
	}
	status := `{"metadata":{"annotations":{"` + statusAnnotation + `":"[]"}}}`
	policy, rbac := "ValidatingAdmissionPolicy", "cannot"
	tests := map[string]struct {
		do   func(context.Context) error
		want string // what the refusal says; empty: it works
	}{
		"network-status here":             {patch(here, namespace, victim.name, status, "status"), ""},
		"network-status elsewhere":        {patch(here, "viaduct", away.Name, status, "status"), policy},
		"by another node's token":         {patch(elsewhere, namespace, victim.name, status, "status"), policy},
		"by a token without a node":       {patch(unbound, namespace, victim.name, status, "status"), policy},
		"another annotation":              {patch(here, namespace, victim.name, `{"metadata":{"annotations":{"x":"y"}}}`, "status"), policy},
		"a label":                         {patch(here, namespace, victim.name, `{"metadata":{"labels":{"app":"x"}}}`, "status"), policy},
		"a finalizer":                     {patch(here, namespace, victim.name, `{"metadata":{"finalizers":["a.example/b"]}}`, "status"), policy},
		"the pod's phase":                 {patch(here, namespace, victim.name, `{"status":{"phase":"Failed"}}`, "status"), policy},
		"the pod's address":               {patch(here, namespace, victim.name, `{"status":{"podIP":"192.0.2.66","podIPs":[{"ip":"192.0.2.66"}]}}`, "status"), policy},
		"an event":                        {event(running.Spec.NodeName), ""},
		"an event of another node":        {event("elsewhere"), policy},
		"the pod itself":                  {patch(here, namespace, victim.name, status), rbac},
		"the pod's image":                 {patch(here, namespace, victim.name, `{"spec":{"containers":[{"name":"main","image":"x"}]}}`), rbac},
		"its networks, by ephemeral ways": {patch(here, namespace, victim.name, `{}`, "ephemeralcontainers"), rbac},
		"delete a pod": {func(ctx context.Context) error {
			return here.CoreV1().Pods(namespace).Delete(ctx, victim.name, metav1.DeleteOptions{})
		}, rbac},
		"secrets": {func(ctx context.Context) error {
			_, err := here.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
			return err
		}, rbac},
		"nodes": {func(ctx context.Context) error {
			_, err := here.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err
		}, rbac},
		"a pod of its own": {func(ctx context.Context) error {
			_, err := here.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{}, metav1.CreateOptions{})
			return err
		}, rbac},
		"another token": {func(ctx context.Context) error {
			_, err := here.CoreV1().ServiceAccounts("viaduct").CreateToken(ctx, "meta-agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}, rbac},
		"read pods": {func(ctx context.Context) error {
			_, err := here.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.do(t.Context())
			if tt.want == "" && err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want it forbidden: %s", err, tt.want)
			}
		})
	}
	t.Run("it ends with its pod", func(t *testing.T) {
		if err := remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the token to be refused", func(ctx context.Context) error {
			if _, err := elsewhere.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
				return fmt.Errorf("it is still taken: %w", err)
			}
			return nil
		})
	})
}
