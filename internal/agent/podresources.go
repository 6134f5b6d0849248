package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// ErrKubelet means that the kubelet did not say which devices a pod has.
var ErrKubelet = errors.New("the kubelet does not say which devices the pod has")

const getRetry = 10 * time.Minute

// A Kubelet answers which devices a pod was given, over one connection to the kubelet's podresources socket.
type Kubelet struct {
	conn   *grpc.ClientConn
	client podresources.PodResourcesListerClient
	budget time.Duration
	// askGet is when Get is worth a try again, in Unix nanoseconds: a kubelet that does not serve it (before 1.34 it is off
	// by default) is asked to List for a while. Its restart or upgrade is nothing that we are told of.
	askGet atomic.Int64
}

// NewKubelet prepares the connection; it is made when it is first needed and again after a restart of the kubelet.
func NewKubelet(socket string) (*Kubelet, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket that only root can open
		// gRPC's own pauses grow to two minutes: pods would wait that long for a kubelet that is back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("prepare a connection to %s: %w", socket, err)
	}
	return &Kubelet{conn: conn, client: podresources.NewPodResourcesListerClient(conn), budget: 10 * time.Second}, nil
}

// Close ends the connection.
func (k *Kubelet) Close() error { return k.conn.Close() }

// Devices returns the ids of the pod's devices by resource, in the kubelet's order, which varies. The error wraps
// ErrKubelet. The kubelet answers by name alone; it has at most one pod of a name.
func (k *Kubelet) Devices(ctx context.Context, pod network.Pod) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, k.budget)
	defer cancel()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		containers, err := k.containers(ctx, pod)
		if err == nil {
			return collect(containers), nil
		}
		// The kubelet answers 100 requests a second in all, and is away while it restarts.
		code := status.Code(err)
		if code != codes.ResourceExhausted && code != codes.Unavailable {
			return nil, fmt.Errorf("%w: pod %s/%s: %w", ErrKubelet, pod.Namespace, pod.Name, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: pod %s/%s: %w", ErrKubelet, pod.Namespace, pod.Name, err)
		case <-time.After(wait):
		}
	}
}

func (k *Kubelet) containers(ctx context.Context, pod network.Pod) ([]*podresources.ContainerResources, error) {
	if time.Now().UnixNano() >= k.askGet.Load() {
		answer, err := k.client.Get(ctx, &podresources.GetPodResourcesRequest{PodNamespace: pod.Namespace, PodName: pod.Name})
		if !getNotServed(err) {
			return answer.GetPodResources().GetContainers(), err
		}
		k.askGet.Store(time.Now().Add(getRetry).UnixNano())
	}
	answer, err := k.client.List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	for _, p := range answer.GetPodResources() {
		if p.GetNamespace() == pod.Namespace && p.GetName() == pod.Name {
			return p.GetContainers(), nil
		}
	}
	return nil, fmt.Errorf("it lists no such pod")
}

// getNotServed tells a kubelet without Get from one that refuses: with the feature gate off, it says so in words only.
func getNotServed(err error) bool {
	return status.Code(err) == codes.Unimplemented || (err != nil && strings.Contains(err.Error(), "Get method disabled"))
}

func collect(containers []*podresources.ContainerResources) map[string][]string {
	ids := map[string][]string{}
	for _, c := range containers {
		for _, d := range c.GetDevices() {
			ids[d.GetResourceName()] = append(ids[d.GetResourceName()], d.GetDeviceIds()...)
		}
	}
	return ids
}
