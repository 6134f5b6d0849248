package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

var eventResource = schema.GroupVersionResource{Version: "v1", Resource: "events"}

const (
	eventQueue  = 64
	eventBudget = 10 * time.Second
	// The API server refuses longer messages.
	maxEventMessage = 1024
)

// Events tells a pod's author what is wrong, on the pod. The kubelet says the same among much else, again with each try;
// this is said once for each fault of each pod.
type Events struct {
	kube  *Kube
	node  string
	queue chan event
	log   *slog.Logger
}

type event struct {
	pod     network.Pod
	message string
}

// NewEvents makes a queue; Run empties it.
func NewEvents(kube *Kube, node string, log *slog.Logger) *Events {
	return &Events{kube: kube, node: node, queue: make(chan event, eventQueue), log: log}
}

// Refused queues an event, and drops it if many wait already: the author also gets the text from the kubelet.
func (e *Events) Refused(pod network.Pod, message string) {
	if pod.Name == "" || pod.Namespace == "" {
		return
	}
	select {
	case e.queue <- event{pod, message}:
	default:
	}
}

// Run sends what is queued until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	said := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-e.queue:
			// The kubelet tries again for as long as the pod is there, with the same answer each time.
			name := eventName(ev)
			if said[name] {
				continue
			}
			if len(said) >= 1000 {
				clear(said)
			}
			if err := e.send(ctx, name, ev); err != nil {
				e.log.Debug("Cannot write an event", "pod", ev.pod.Namespace+"/"+ev.pod.Name, "err", err)
				continue
			}
			said[name] = true
		}
	}
}

// eventName is the same for the same fault of the same pod, so that a restarted agent does not repeat itself.
func eventName(ev event) string {
	sum := sha256.Sum256([]byte(ev.pod.UID + "\x00" + ev.message))
	return strings.TrimRight(ev.pod.Name[:min(len(ev.pod.Name), 230)], "-.") + "." + hex.EncodeToString(sum[:8])
}

func (e *Events) send(ctx context.Context, name string, ev event) error {
	ctx, cancel := context.WithTimeout(ctx, eventBudget)
	defer cancel()
	message := ev.message
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage-3], "") + "…"
	}
	now := metav1.Now().UTC().Format(time.RFC3339)
	_, err := e.kube.dyn.Resource(eventResource).Namespace(ev.pod.Namespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"name": name, "namespace": ev.pod.Namespace},
		"involvedObject": map[string]any{
			"apiVersion": "v1", "kind": "Pod", "namespace": ev.pod.Namespace, "name": ev.pod.Name, "uid": ev.pod.UID,
		},
		"type": "Warning", "reason": "InvalidNetwork", "message": message,
		"source":         map[string]any{"component": "meta-agent", "host": e.node},
		"firstTimestamp": now, "lastTimestamp": now, "count": int64(1),
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create an event: %w", err)
	}
	return nil
}
