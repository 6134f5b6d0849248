package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

const (
	// reportBudget is how long a pod's start waits for its network-status.
	reportBudget = agentapi.ReportWait
	// maxStatus leaves room in an object's annotations, 256 KiB in all.
	maxStatus = 128 << 10
	// sentLasts is how long the informer may take to show what was written.
	sentLasts = 30 * time.Second
)

// A Publisher writes network-status, each once: the stub reports it while the pod starts, and the journal has it too.
type Publisher struct {
	Kube *Kube

	mu   sync.Mutex
	sent map[string]sent // by the pod's UID
}

type sent struct {
	status string
	at     time.Time
}

// Report publishes what the stub reports.
func (p *Publisher) Report(ctx context.Context, r agentapi.Report) error {
	ctx, cancel := context.WithTimeout(ctx, reportBudget)
	defer cancel()
	return p.Publish(ctx, r.Pod, r.Status)
}

// Publish writes network-status unless the pod has it already. The error wraps ErrReplaced or ErrAPI.
func (p *Publisher) Publish(ctx context.Context, pod network.Pod, status json.RawMessage) error {
	status, err := layOut(status)
	if err != nil {
		return fmt.Errorf("publish network-status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	cached := p.Kube.cachedPod(pod)
	if cached != nil {
		pod.UID = string(cached.UID) // a static pod's mirror has another
		if cached.Annotations[network.StatusAnnotation] == string(status) {
			return nil
		}
	}
	if p.sentLately(pod.UID, string(status)) {
		return nil
	}
	err = p.Kube.PatchStatus(ctx, pod, status)
	if errors.Is(err, ErrReplaced) && cached == nil {
		if _, uid, got := p.Kube.Pod(ctx, pod); got == nil && uid != pod.UID { // a static pod that the informer does not show yet
			pod.UID = uid
			err = p.Kube.PatchStatus(ctx, pod, status)
		}
	}
	if err != nil {
		statusPublished.WithLabelValues("failed").Inc()
		return err
	}
	statusPublished.WithLabelValues("ok").Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		p.sent = map[string]sent{}
	}
	for uid, s := range p.sent {
		if time.Since(s.at) > sentLasts {
			delete(p.sent, uid)
		}
	}
	p.sent[pod.UID] = sent{string(status), time.Now()}
	return nil
}

// layOut gives network-status the form in which people read it in the annotation. What the stub reports has lost its own on the
// way: in another form, the same status from the journal would be written once more.
func layOut(status json.RawMessage) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := json.Indent(&b, status, "", "    "); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if b.Len() > maxStatus {
		return nil, fmt.Errorf("it has %d bytes, more than %d", b.Len(), maxStatus)
	}
	return b.Bytes(), nil
}

func (p *Publisher) sentLately(uid, status string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sent[uid]
	return ok && s.status == status && time.Since(s.at) <= sentLasts
}
