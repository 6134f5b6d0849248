package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A holder is a container that the kubelet gave a device to.
type holder struct{ namespace, pod, container, resource string }

// kubeletView is what the kubelet says of devices, by id.
type kubeletView struct {
	held    map[string]holder
	offered map[string]string // the resource as which it may give them out
	pods    map[string]bool   // all that it names, by namespace/name, whether they have devices or not
}

// askKubelet asks at the podresources socket. A kubelet that is away must not keep anybody from looking at VFs.
func (n *Node) askKubelet(ctx context.Context) (kubeletView, error) {
	v := kubeletView{held: map[string]holder{}, offered: map[string]string{}, pods: map[string]bool{}}
	socket := filepath.Join(n.KubeletRoot, "pod-resources/kubelet.sock")
	if _, err := os.Stat(socket); err != nil {
		return v, fmt.Errorf("what pods have is known from the records alone, for the kubelet has no socket at %s (or name its root with --kubelet-root)", socket)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	const maxAnswer = 16 << 20 // as the kubelet's own client has it
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return v, fmt.Errorf("dial the kubelet: %w", err)
	}
	defer func() { _ = conn.Close() }() // two calls were made on it, and answered
	client := podresources.NewPodResourcesListerClient(conn)
	list, err := client.List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return v, fmt.Errorf("the kubelet does not say which devices pods have: %w", err)
	}
	for _, p := range list.GetPodResources() {
		v.pods[p.GetNamespace()+"/"+p.GetName()] = true
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				for _, id := range d.GetDeviceIds() {
					v.held[id] = holder{p.GetNamespace(), p.GetName(), c.GetName(), d.GetResourceName()}
				}
			}
		}
	}
	all, err := client.GetAllocatableResources(ctx, &podresources.AllocatableResourcesRequest{})
	if err != nil {
		return v, fmt.Errorf("the kubelet does not say which devices it has: %w", err)
	}
	for _, d := range all.GetDevices() {
		for _, id := range d.GetDeviceIds() {
			v.offered[id] = d.GetResourceName()
		}
	}
	return v, nil
}

// doubt is why the answer is not to be believed: a kubelet that has just started knows its devices, and of its pods at first
// none, then the static ones alone, until it has reached the API server. living are the pods that are on record here.
func (v kubeletView) doubt(living []string) error {
	switch {
	case len(v.pods) == 0:
		return errors.New("the kubelet names no pod at all: it has just started, or does not reach the API server")
	case len(living) > 0 && !slices.ContainsFunc(living, func(pod string) bool { return v.pods[pod] }):
		return fmt.Errorf("the kubelet names none of the %d pods that live here, such as %s: it has just started, or does not reach the API server", len(living), living[0])
	}
	return nil
}

// DevicesOf are the devices that this node's kubelet gave to the pod's containers, by resource: none if the pod is on another
// node, or its containers are yet to be made.
func (n *Node) DevicesOf(ctx context.Context, namespace, name string) (map[string][]string, error) {
	v, err := n.askKubelet(ctx)
	if err != nil {
		return nil, err
	}
	devices := map[string][]string{}
	for id, h := range v.held {
		if h.namespace == namespace && h.pod == name {
			devices[h.resource] = append(devices[h.resource], id)
		}
	}
	return devices, nil
}
