package deploy

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

const statusAnnotation = "k8s.v1.cni.cncf.io/network-status"

func account(name, node string) user.Info {
	u := &user.DefaultInfo{Name: "system:serviceaccount:viaduct:" + name, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	if node != "" {
		u.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	}
	return u
}

// What a token of the agent's may do to pods, whoever has it.
func TestAgentPolicy(t *testing.T) {
	onlyStatus, onlyNode, nothingElse := "may set "+statusAnnotation+" only", "its own node only", "nothing of a pod but"
	own := account("meta-agent", "node-a")
	set := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
	}
	tests := map[string]struct {
		by     user.Info
		before func(*corev1.Pod)
		do     func(*corev1.Pod)
		want   string
	}{
		"sets network-status":               {by: own, do: set(statusAnnotation, "[]")},
		"changes network-status":            {by: own, before: set(statusAnnotation, "[]"), do: set(statusAnnotation, "[{}]")},
		"sets it where there was nothing":   {by: own, before: func(p *corev1.Pod) { p.Annotations = nil }, do: set(statusAnnotation, "[]")},
		"changes nothing":                   {by: own, do: func(*corev1.Pod) {}},
		"on another node":                   {by: account("meta-agent", "node-b"), do: set(statusAnnotation, "[]"), want: onlyNode},
		"a token without a node":            {by: account("meta-agent", ""), do: set(statusAnnotation, "[]"), want: onlyNode},
		"a pod without a node":              {by: own, before: func(p *corev1.Pod) { p.Spec.NodeName = "" }, do: set(statusAnnotation, "[]"), want: onlyNode},
		"neither has a node":                {by: account("meta-agent", ""), before: func(p *corev1.Pod) { p.Spec.NodeName = "" }, do: set(statusAnnotation, "[]"), want: onlyNode},
		"takes a pod to its node":           {by: own, before: func(p *corev1.Pod) { p.Spec.NodeName = "node-b" }, do: func(p *corev1.Pod) { p.Spec.NodeName = "node-a" }, want: onlyNode},
		"asks for other networks":           {by: own, do: set("k8s.v1.cni.cncf.io/networks", "other"), want: onlyStatus},
		"sets an annotation":                {by: own, do: set("new", "x"), want: onlyStatus},
		"removes an annotation":             {by: own, do: func(p *corev1.Pod) { delete(p.Annotations, "keep") }, want: onlyStatus},
		"removes all annotations":           {by: own, do: func(p *corev1.Pod) { p.Annotations = nil }, want: onlyStatus},
		"network-status and another":        {by: own, do: func(p *corev1.Pod) { set(statusAnnotation, "[]")(p); set("keep", "x")(p) }, want: onlyStatus},
		"sets a label":                      {by: own, do: func(p *corev1.Pod) { p.Labels["app"] = "x" }, want: nothingElse},
		"removes the labels":                {by: own, do: func(p *corev1.Pod) { p.Labels = nil }, want: nothingElse},
		"sets a finalizer":                  {by: own, do: func(p *corev1.Pod) { p.Finalizers = []string{"a.example/b"} }, want: nothingElse},
		"gives it to an owner":              {by: own, do: func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }, want: nothingElse},
		"fails the pod":                     {by: own, do: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, want: nothingElse},
		"takes its address, as of services": {by: own, do: func(p *corev1.Pod) { p.Status.PodIP = "192.0.2.66" }, want: nothingElse},
		"makes it ready":                    {by: own, do: func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionTrue }, want: nothingElse},
		"changes its image":                 {by: own, do: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "x" }, want: nothingElse},
		"another account":                   {by: account("device-plugin", ""), do: set("new", "x")},
		"the kubelet":                       {by: &user.DefaultInfo{Name: "system:node:node-b"}, do: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }},
	}
	p := compile(t, decode[admissionv1.ValidatingAdmissionPolicy](t, kustomize(t, "."), "ValidatingAdmissionPolicy /viaduct-meta-agent"))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			old := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Name: "p", Namespace: "shop", Labels: map[string]string{"app": "till"},
					Annotations: map[string]string{"keep": "this", "k8s.v1.cni.cncf.io/networks": "vlan100"},
				},
				Spec: corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
				Status: corev1.PodStatus{
					Phase: corev1.PodRunning, PodIP: "192.0.2.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
				},
			}
			if tt.before != nil {
				tt.before(old)
			}
			changed := old.DeepCopy()
			tt.do(changed)
			got := p.refuses(t, request{
				old: old, object: changed, by: tt.by, subresource: "status", namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
				resource: corev1.SchemeGroupVersion.WithResource("pods"), kind: corev1.SchemeGroupVersion.WithKind("Pod"),
			})
			if (got != "") != (tt.want != "") || !strings.Contains(got, tt.want) {
				t.Errorf("refused: %q, want %q", got, tt.want)
			}
		})
	}
}

// What it may say, and about what.
func TestAgentEventsPolicy(t *testing.T) {
	onlyPods, onlyItself := "events InvalidNetwork of pods only", "its own node's agent only"
	own := account("meta-agent", "node-a")
	tests := map[string]struct {
		by   user.Info
		do   func(*corev1.Event)
		want string
	}{
		"about a pod":             {by: own, do: func(*corev1.Event) {}},
		"about a node":            {by: own, do: func(e *corev1.Event) { e.InvolvedObject.Kind = "Node" }, want: onlyPods},
		"about nothing":           {by: own, do: func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{} }, want: onlyPods},
		"another reason":          {by: own, do: func(e *corev1.Event) { e.Reason = "FailedScheduling" }, want: onlyPods},
		"all is well":             {by: own, do: func(e *corev1.Event) { e.Type = corev1.EventTypeNormal }, want: onlyPods},
		"as the kubelet":          {by: own, do: func(e *corev1.Event) { e.Source.Component = "kubelet" }, want: onlyItself},
		"as who reports, anew":    {by: own, do: func(e *corev1.Event) { e.ReportingController = "kubelet" }, want: onlyItself},
		"as another node's agent": {by: own, do: func(e *corev1.Event) { e.Source.Host = "node-b" }, want: onlyItself},
		"reported there":          {by: own, do: func(e *corev1.Event) { e.ReportingInstance = "node-b" }, want: onlyItself},
		"without a source":        {by: own, do: func(e *corev1.Event) { e.Source = corev1.EventSource{} }, want: onlyItself},
		"a token without a node":  {by: account("meta-agent", ""), do: func(e *corev1.Event) { e.Source.Host = "" }, want: onlyItself},
		"another account":         {by: account("other", ""), do: func(e *corev1.Event) { e.Reason = "x" }},
	}
	p := compile(t, decode[admissionv1.ValidatingAdmissionPolicy](t, kustomize(t, "."), "ValidatingAdmissionPolicy /viaduct-meta-agent-events"))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			made := &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Name: "p.0123", Namespace: "shop"},
				InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "shop", Name: "p"},
				Type:           corev1.EventTypeWarning, Reason: "InvalidNetwork", Message: "no network of that name", Count: 1,
				Source: corev1.EventSource{Component: "meta-agent", Host: "node-a"},
			}
			tt.do(made)
			got := p.refuses(t, request{
				object: made, by: tt.by, namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
				resource: corev1.SchemeGroupVersion.WithResource("events"), kind: corev1.SchemeGroupVersion.WithKind("Event"),
			})
			if (got != "") != (tt.want != "") || !strings.Contains(got, tt.want) {
				t.Errorf("refused: %q, want %q", got, tt.want)
			}
		})
	}
}
