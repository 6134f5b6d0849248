// Package kubelettest stands in for a kubelet: it does what a kubelet's plugin watcher and device manager do with sockets,
// and can misbehave on purpose. What it stands for is the order of calls; the lab has the real one.
package kubelettest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A Kubelet can be started and stopped many times.
type Kubelet struct {
	deviceplugin.UnimplementedRegistrationServer
	podresources.UnimplementedPodResourcesListerServer
	t *testing.T

	Dir     string // the kubelet's root
	Refuse  int    // this many registrations are refused
	Deaf    bool   // the plugin watcher does nothing
	Streams int    // how many streams it opens to a plugin; 0 is 1

	mu     sync.Mutex
	lists  map[string][]*deviceplugin.Device // by resource, the last one
	counts map[string]int                    // how often a list came
	calls  map[string]int                    // how often something was done
	dialed map[string]uint64                 // sockets that were handled
	given  map[string]string                 // by id: the resource as which a pod has it
	pods   Pods
	ctx    context.Context
	cancel context.CancelFunc
	server *grpc.Server
	wg     sync.WaitGroup
}

// Pods is what the kubelet's podresources socket says.
type Pods int

// A kubelet knows all its pods, of which one is Pod; or it has just started and knows none
// yet, or Pod alone the first time that it is asked; or it does not say.
const (
	AllPods Pods = iota
	NoPodsYet
	OwnPodFirst
	PodsNotTold
)

// Pod is a pod that has no devices, in Namespace: the plugin's own.
const (
	Namespace = "viaduct"
	Pod       = "device-plugin-x7k2p"
)

// New makes a kubelet that is not started, in a folder of its own.
func New(t *testing.T) *Kubelet {
	// Not t.TempDir: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "kubelet") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left in the temporary folder hurts nobody
	return &Kubelet{
		t: t, Dir: dir, lists: map[string][]*deviceplugin.Device{}, counts: map[string]int{}, calls: map[string]int{},
		dialed: map[string]uint64{}, given: map[string]string{},
	}
}

// Registry is the plugin watcher's folder.
func (k *Kubelet) Registry() string { return filepath.Join(k.Dir, "plugins_registry") }

// Plugins is the folder with kubelet.sock.
func (k *Kubelet) Plugins() string { return filepath.Join(k.Dir, "device-plugins") }

func (k *Kubelet) podResources() string { return filepath.Join(k.Dir, "pod-resources") }

// Start makes the folders, empties device-plugins, listens on kubelet.sock and follows plugins_registry.
func (k *Kubelet) Start() {
	k.t.Helper()
	k.check(os.MkdirAll(k.Registry(), 0o750))
	k.check(os.RemoveAll(k.Plugins()))
	k.check(os.MkdirAll(k.Plugins(), 0o750))
	k.check(os.RemoveAll(k.podResources()))
	k.check(os.MkdirAll(k.podResources(), 0o750))
	listener, err := new(net.ListenConfig).Listen(k.t.Context(), "unix", filepath.Join(k.Plugins(), "kubelet.sock"))
	k.check(err)
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.server = grpc.NewServer()
	deviceplugin.RegisterRegistrationServer(k.server, k)
	k.mu.Lock()
	clear(k.dialed)
	k.mu.Unlock()
	podresources.RegisterPodResourcesListerServer(k.server, k)
	pods, err := new(net.ListenConfig).Listen(k.t.Context(), "unix", filepath.Join(k.podResources(), "kubelet.sock"))
	k.check(err)
	server, ctx := k.server, k.ctx
	k.wg.Go(func() { _ = server.Serve(pods) })
	k.wg.Go(func() { _ = server.Serve(listener) })
	k.wg.Go(func() { k.follow(ctx) })
}

// Stop ends it as a SIGTERM does.
func (k *Kubelet) Stop() {
	k.cancel()
	k.server.Stop()
	k.wg.Wait()
}

func (k *Kubelet) check(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// follow is the plugin watcher: each new socket once.
func (k *Kubelet) follow(ctx context.Context) {
	for ctx.Err() == nil {
		entries, _ := os.ReadDir(k.Registry())
		for _, e := range entries {
			path := filepath.Join(k.Registry(), e.Name())
			if k.Deaf || strings.HasPrefix(e.Name(), ".") || !k.isNew(path) {
				continue
			}
			k.pickUp(ctx, path)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (k *Kubelet) isNew(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	stamp := uint64(info.ModTime().UnixNano())
	if k.dialed[path] == stamp {
		return false
	}
	k.dialed[path] = stamp
	return true
}

func (k *Kubelet) pickUp(ctx context.Context, path string) {
	conn, err := Dial(path)
	k.check(err)
	defer func() { _ = conn.Close() }()
	client := registration.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil { // the socket went meanwhile, or nobody listens on it yet: it is tried again, after half a second or more
		k.mu.Lock()
		k.calls["unanswered"]++
		k.mu.Unlock()
		return
	}
	if info.GetType() != registration.DevicePlugin || !slices.Contains(info.GetSupportedVersions(), deviceplugin.Version) {
		k.t.Errorf("GetInfo: %v", info)
	}
	if k.refuses() {
		_, _ = client.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{Error: "not today"})
		return
	}
	k.connect(ctx, info.GetName(), path)
	_, _ = client.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{PluginRegistered: true})
}

func (k *Kubelet) refuses() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.calls["refused"] >= k.Refuse {
		return false
	}
	k.calls["refused"]++
	return true
}

// Register is the older way.
func (k *Kubelet) Register(_ context.Context, r *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	if k.refuses() {
		return nil, status.Error(codes.Unavailable, "not today")
	}
	if r.GetVersion() != deviceplugin.Version {
		k.t.Errorf("version %s", r.GetVersion())
	}
	k.mu.Lock()
	k.calls["registered"]++
	k.mu.Unlock()
	k.connect(k.ctx, r.GetResourceName(), filepath.Join(k.Plugins(), r.GetEndpoint())) //nolint:contextcheck // the stream outlives the call
	return &deviceplugin.Empty{}, nil
}

// List is podresources: every device that Give gave, in a pod of its own, and Pod.
func (k *Kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls["asked"]++
	response := &podresources.ListPodResourcesResponse{}
	switch k.pods {
	case PodsNotTold:
		return nil, status.Error(codes.Unavailable, "not today")
	case NoPodsYet:
		return response, nil
	}
	response.PodResources = append(response.PodResources, &podresources.PodResources{Namespace: Namespace, Name: Pod})
	if k.pods == OwnPodFirst {
		k.pods = AllPods
		return response, nil
	}
	for id, resource := range k.given {
		response.PodResources = append(response.PodResources, &podresources.PodResources{Containers: []*podresources.ContainerResources{
			{Devices: []*podresources.ContainerDevices{{ResourceName: resource, DeviceIds: []string{id}}}},
		}})
	}
	return response, nil
}

// Knows sets what podresources says from now on.
func (k *Kubelet) Knows(p Pods) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods = p
}

// Give makes a pod have a device, as resource; empty: no pod has it any more.
func (k *Kubelet) Give(id, resource string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.given, id)
	if resource != "" {
		k.given[id] = resource
	}
}

// connect opens the streams.
func (k *Kubelet) connect(ctx context.Context, resource, path string) {
	for range max(1, k.Streams) {
		conn, err := Dial(path)
		k.check(err)
		stream, err := deviceplugin.NewDevicePluginClient(conn).ListAndWatch(ctx, &deviceplugin.Empty{})
		if err != nil {
			_ = conn.Close()
			return
		}
		k.wg.Go(func() {
			defer func() { _ = conn.Close() }()
			for {
				list, err := stream.Recv()
				k.mu.Lock()
				if err != nil {
					delete(k.lists, resource)
					k.mu.Unlock()
					return
				}
				k.lists[resource] = list.GetDevices()
				k.counts[resource]++
				k.mu.Unlock()
			}
		})
	}
}

// HangUp ends all streams from the kubelet's side, and dials no socket again that it has seen.
func (k *Kubelet) HangUp() {
	k.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	k.ctx, k.cancel = ctx, cancel
	k.wg.Go(func() { k.follow(ctx) })
}

// Dial connects to a socket.
func Dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Devices is what the kubelet knows of a resource, as id and health; nil: it has no stream.
func (k *Kubelet) Devices(resource string) map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	list, ok := k.lists[resource]
	if !ok {
		return nil
	}
	devices := map[string]string{}
	for _, d := range list {
		devices[d.GetID()] = d.GetHealth()
	}
	return devices
}

// Nodes is what the kubelet knows of the NUMA nodes of a resource's devices, by id.
func (k *Kubelet) Nodes(resource string) map[string][]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	nodes := map[string][]int64{}
	for _, d := range k.lists[resource] {
		nodes[d.GetID()] = nil
		for _, n := range d.GetTopology().GetNodes() {
			nodes[d.GetID()] = append(nodes[d.GetID()], n.GetID())
		}
	}
	return nodes
}

// Count is how often something was done: "refused", "registered" by call, "asked" for what pods have, or a resource's list
// received.
func (k *Kubelet) Count(what string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[what] + k.counts[what]
}

// Eventually polls until ok, and fails the test if that takes too long.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // a poll's pause
	}
}
