package offer

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A Holder knows which devices pods have, by id, and as which resource.
type Holder interface {
	Held(ctx context.Context) (map[string]string, error)
}

// PodResources asks the kubelet at its podresources socket.
type PodResources struct{ Socket string }

// maxAnswer is what the kubelet's own client takes: the answer has every pod of the node.
const maxAnswer = 16 << 20

// Held lists the devices that the kubelet has given to pods.
func (p PodResources) Held(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+p.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("dial the kubelet: %w", err)
	}
	defer func() { _ = conn.Close() }() // one call was made on it, and answered
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet at %s which devices pods have: %w", p.Socket, err)
	}
	held := map[string]string{}
	for _, pod := range list.GetPodResources() {
		for _, container := range pod.GetContainers() {
			for _, devices := range container.GetDevices() {
				for _, id := range devices.GetDeviceIds() {
					held[id] = devices.GetResourceName()
				}
			}
		}
	}
	return held, nil
}

// recent remembers allocations that the kubelet does not list yet: it answers podresources from what it has recorded,
// which comes after Allocate.
type recent struct {
	mu  sync.Mutex
	ids map[string]allocation
}

type allocation struct {
	resource string
	at       time.Time
}

const recentFor = time.Minute

func (r *recent) note(resource string, ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[string]allocation{}
	}
	for _, id := range ids {
		r.ids[id] = allocation{resource, time.Now()}
	}
}

// over adds the recent allocations to what the kubelet says.
func (r *recent) over(held map[string]string) map[string]string {
	all := maps.Clone(held)
	if all == nil {
		all = map[string]string{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, a := range r.ids {
		if time.Since(a.at) > recentFor {
			delete(r.ids, id)
			continue
		}
		if _, known := all[id]; !known {
			all[id] = a.resource
		}
	}
	return all
}
