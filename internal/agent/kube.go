package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/transport"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

var (
	nadResource = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}
	podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// mirrorAnnotation, on the API server's image of a static pod, holds the UID that the kubelet knows the pod by.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// DefaultLookupTimeout is long enough for a slow API server, and short enough for the runtime's patience with a sandbox.
const DefaultLookupTimeout = 10 * time.Second

// What Kube can answer besides success; test with errors.Is.
var (
	// ErrAPI means that the API server was needed and gave no answer.
	ErrAPI = errors.New("the API server does not answer")
	// ErrReplaced means that the pod of that name is another one, or gone.
	ErrReplaced = errors.New("the pod is gone or was replaced by another of its name")
)

// Kube knows the cluster's definitions and this node's pods from two informers. What they do not have, it asks the API
// server for, once and within a budget.
//
// Neither informer needs the types of k8s.io/api: of a pod only the metadata travels, and a definition is parsed as it
// arrives and kept only in its parsed form. That is most of the difference between this process and one with a typed
// clientset, in memory and in size.
type Kube struct {
	pods, nads cache.SharedIndexInformer
	meta       metadata.Interface
	dyn        dynamic.Interface
	getBudget  time.Duration
	flight     singleflight.Group
	log        *slog.Logger
}

// NewKube prepares the informers; it asks the API server nothing yet.
func NewKube(config *rest.Config, node string, log *slog.Logger) (*Kube, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 300 // a boot storm is one patch for each of 250 pods
	refreshToken(config)
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	k := &Kube{meta: meta, dyn: dyn, getBudget: DefaultLookupTimeout, log: log}
	k.pods = cache.NewSharedIndexInformer(listWatch(
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
			return meta.Resource(podResource).List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
			return meta.Resource(podResource).Watch(ctx, o)
		}), &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
	k.nads = cache.NewSharedIndexInformer(listWatch(
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return dyn.Resource(nadResource).List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return dyn.Resource(nadResource).Watch(ctx, o)
		}), &unstructured.Unstructured{}, 0, cache.Indexers{})
	if err := errors.Join(k.pods.SetTransform(trimPod), k.nads.SetTransform(trimDefinition)); err != nil {
		return nil, fmt.Errorf("prepare the informers: %w", err)
	}
	for what, informer := range map[string]cache.SharedIndexInformer{"pods": k.pods, "network-attachment-definitions": k.nads} {
		err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			k.log.Warn("Watching the API server failed, trying again", "what", what, "err", err)
		})
		if err != nil {
			return nil, fmt.Errorf("prepare the informers: %w", err)
		}
	}
	return k, nil
}

// refreshToken makes a token that was refused be read from its file again at once. By itself client-go does so within a
// minute: long enough for a rotation that leaves the old one valid, too long for one that does not.
func refreshToken(config *rest.Config) {
	if config.BearerTokenFile == "" {
		return
	}
	config.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(config.BearerTokenFile)))
	config.BearerToken, config.BearerTokenFile = "", ""
}

func listWatch(list cache.ListWithContextFunc, watch cache.WatchFuncWithContext) cache.ListerWatcher {
	return &cache.ListWatch{ListWithContextFunc: list, WatchFuncWithContext: watch}
}

// Run keeps the informers going until ctx ends.
func (k *Kube) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { k.pods.RunWithContext(ctx); return nil })
	g.Go(func() error { k.nads.RunWithContext(ctx); return nil })
	return g.Wait()
}

// Synced reports whether both informers have seen everything once.
func (k *Kube) Synced() bool { return k.pods.HasSynced() && k.nads.HasSynced() }

// definitionsChanged has an element when some have been added, changed or deleted since somebody looked.
func (k *Kube) definitionsChanged() <-chan struct{} {
	changed := make(chan struct{}, 1)
	say := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, _ = k.nads.AddEventHandler(cache.ResourceEventHandlerFuncs{ // it fails after the informer has stopped
		AddFunc: func(any) { say() }, UpdateFunc: func(any, any) { say() }, DeleteFunc: func(any) { say() },
	})
	return changed
}

// keptAnnotations are what the agent reads of a pod.
var keptAnnotations = []string{
	network.NetworksAnnotation, network.DefaultNetworkAnnotation, network.StatusAnnotation, mirrorAnnotation,
}

// trimPod keeps of a pod what the agent reads.
func trimPod(obj any) (any, error) {
	pod, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil
	}
	m := metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	for _, key := range keptAnnotations {
		if value, ok := pod.Annotations[key]; ok {
			if m.Annotations == nil {
				m.Annotations = map[string]string{}
			}
			m.Annotations[key] = value
		}
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: m}, nil
}

// definition is a network.Definition as an informer's store wants it.
type definition struct {
	metav1.ObjectMeta
	parsed *network.Definition
}

// trimDefinition parses a definition, once for each change of it.
func trimDefinition(obj any) (any, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	config, _, err := unstructured.NestedString(u.Object, "spec", "config")
	parsed := network.ParseDefinition(u.GetNamespace(), u.GetName(), u.GetAnnotations()[network.ResourceAnnotation], config)
	if err != nil {
		parsed.Err = network.NotAString(parsed)
	}
	return &definition{
		ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()},
		parsed:     parsed,
	}, nil
}

// cachedDefinition returns a definition that the informer knows; known is false while it may not know all.
func (k *Kube) cachedDefinition(ref network.Reference) (d *network.Definition, known bool) {
	if obj, ok, _ := k.nads.GetStore().GetByKey(ref.String()); ok {
		return obj.(*definition).parsed, true
	}
	return nil, k.nads.HasSynced()
}

// Definition returns a definition; nil if the cluster has none of that name. The error wraps ErrAPI.
func (k *Kube) Definition(ctx context.Context, ref network.Reference) (*network.Definition, error) {
	if d, _ := k.cachedDefinition(ref); d != nil {
		return d, nil
	}
	// Many pods that start at once often wait for the same new definition.
	got, err, _ := k.flight.Do(ref.String(), func() (any, error) {
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.getBudget)
		defer cancel()
		return k.dyn.Resource(nadResource).Namespace(ref.Namespace).Get(shared, ref.Name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: get NetworkAttachmentDefinition %s: %w", ErrAPI, ref, err)
	}
	obj, err := trimDefinition(got)
	if err != nil {
		return nil, err
	}
	return obj.(*definition).parsed, nil
}

// Pod returns the annotations of pod, of those that the agent reads, and the UID that the API server knows it by: a
// static pod's is its mirror's. The error wraps ErrReplaced or ErrAPI.
func (k *Kube) Pod(ctx context.Context, pod network.Pod) (annotations map[string]string, uid string, err error) {
	if m := k.cachedPod(pod); m != nil {
		return m.Annotations, string(m.UID), nil
	}
	ctx, cancel := context.WithTimeout(ctx, k.getBudget)
	defer cancel()
	m, err := k.meta.Resource(podResource).Namespace(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, "", fmt.Errorf("%w: pod %s/%s: the API server has none of that name", ErrReplaced, pod.Namespace, pod.Name)
	case err != nil:
		return nil, "", fmt.Errorf("%w: get pod %s/%s: %w", ErrAPI, pod.Namespace, pod.Name, err)
	case !isPod(m, pod):
		return nil, "", fmt.Errorf("%w: pod %s/%s has the UID %s, the sandbox is of %s", ErrReplaced, pod.Namespace, pod.Name, m.UID, pod.UID)
	}
	return m.Annotations, string(m.UID), nil
}

// cachedPod returns pod from the informer; nil if it has another one of that name, or none.
func (k *Kube) cachedPod(pod network.Pod) *metav1.PartialObjectMetadata {
	obj, ok, _ := k.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name)
	if !ok {
		return nil
	}
	m := obj.(*metav1.PartialObjectMetadata)
	if !isPod(m, pod) {
		return nil
	}
	return m
}

// isPod compares UIDs. Runtimes of before 2021 pass none; then the name has to do.
func isPod(m *metav1.PartialObjectMetadata, pod network.Pod) bool {
	return pod.UID == "" || string(m.UID) == pod.UID || m.Annotations[mirrorAnnotation] == pod.UID
}

// PatchStatus publishes network-status on the pod that the API server knows by pod.UID. The error wraps ErrReplaced or
// ErrAPI.
//
// It goes to the status subresource: the API server lets metadata.annotations through there, and a role that may write
// pods/status can change no pod's spec. A UID in a patch is a precondition: UIDs never change, so a wrong one is refused.
func (k *Kube) PatchStatus(ctx context.Context, pod network.Pod, status json.RawMessage) error {
	meta := map[string]any{"annotations": map[string]string{network.StatusAnnotation: string(status)}}
	if pod.UID != "" {
		meta["uid"] = pod.UID
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode network-status: %w", err)
	}
	_, err = k.meta.Resource(podResource).Namespace(pod.Namespace).
		Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "meta-agent"}, "status")
	switch {
	case err == nil:
		return nil
	// A policy's refusal, or an annotation that is too long for it, is Invalid, too.
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsInvalid(err) && strings.Contains(err.Error(), "metadata.uid"):
		return fmt.Errorf("%w: publish network-status of pod %s/%s (%s): %w", ErrReplaced, pod.Namespace, pod.Name, pod.UID, err)
	default:
		return fmt.Errorf("%w: publish network-status of pod %s/%s: %w", ErrAPI, pod.Namespace, pod.Name, err)
	}
}
