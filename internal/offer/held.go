package offer

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A Holder knows which devices pods have.
type Holder interface {
	// Held gives the devices by id, and as which resource a pod has them. complete says that these are all: what is not
	// there, no pod has.
	Held(ctx context.Context) (held map[string]string, complete bool, err error)
	// Up reports whether whoever knows is there at all.
	Up(ctx context.Context) bool
	// Started is when whoever knows started; zero: it is not known.
	Started() time.Time
}

// PodResources asks the kubelet at its podresources socket.
type PodResources struct {
	Socket string
	// Kubelet is the socket for registrations, which is there when the kubelet can give devices to pods.
	Kubelet string
	// Namespace and Pod name the pod that this program runs in; empty: it is not known.
	Namespace, Pod string
}

// maxAnswer is what the kubelet's own client takes: the answer has every pod of the node.
const maxAnswer = 16 << 20

// Held lists the devices that the kubelet has given to pods. A kubelet that just started answers before it knows its pods:
// first none, then the static ones, and all others at once when it has them from the API server. So the answer is complete
// when our own pod is in it; where that is not known, when any is.
func (p PodResources) Held(ctx context.Context) (held map[string]string, complete bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+p.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, false, fmt.Errorf("dial the kubelet: %w", err)
	}
	defer func() { _ = conn.Close() }() // one call was made on it, and answered
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, false, fmt.Errorf("ask the kubelet at %s which devices pods have: %w", p.Socket, err)
	}
	held = map[string]string{}
	for _, pod := range list.GetPodResources() {
		complete = complete || p.Pod == "" || pod.GetName() == p.Pod && pod.GetNamespace() == p.Namespace
		for _, container := range pod.GetContainers() {
			for _, devices := range container.GetDevices() {
				for _, id := range devices.GetDeviceIds() {
					held[id] = devices.GetResourceName()
				}
			}
		}
	}
	return held, complete, nil
}

// Up tells a kubelet that runs from one that does not: its socket outlives a kill.
func (p PodResources) Up(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.Kubelet)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent on it
	return true
}

// Started is when the kubelet made its socket, which it does at each start.
func (p PodResources) Started() time.Time {
	info, err := os.Stat(p.Socket)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
