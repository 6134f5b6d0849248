package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A kubelet stands in for the real one's podresources socket. Like it, it names the devices of a container in another
// order each time, one entry for each id, a device on two NUMA nodes twice, and has its own words for "no Get here".
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	socket string

	mu        sync.Mutex
	pods      map[string]map[string][]string // namespace/name → resource → ids
	specs     map[string][]container         // namespace/name → a pod whose containers differ
	noGet     error
	exhausted int // how many calls are refused first
	calls     []string
}

func newKubelet(t testing.TB) *kubelet {
	k := &kubelet{socket: filepath.Join(t.TempDir(), "kubelet.sock"), pods: map[string]map[string][]string{}}
	k.start(t)
	return k
}

func (k *kubelet) start(t testing.TB) *grpc.Server {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(s, k)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return s
}

func (k *kubelet) give(pod network.Pod, resource string, ids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := pod.Namespace + "/" + pod.Name
	if k.pods[key] == nil {
		k.pods[key] = map[string][]string{}
	}
	k.pods[key][resource] = ids
}

// A container is one of a pod's, as far as the kubelet's answer depends on it.
type container struct {
	kind string // init, sidecar, app
	ids  []string
}

// listed is what the kubelet tells of a pod since 1.29: its sidecars, then its other containers. An init container that ends
// is left out; its devices are given to a later container first, and are then that one's.
func listed(containers []container, resource string) (out []*podresources.ContainerResources) {
	for _, kind := range []string{"sidecar", "app"} {
		for i, c := range containers {
			if c.kind != kind {
				continue
			}
			r := &podresources.ContainerResources{Name: fmt.Sprintf("%s-%d", kind, i)}
			for _, id := range c.ids {
				r.Devices = append(r.Devices, &podresources.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
			}
			out = append(out, r)
		}
	}
	return out
}

// asked are the calls since the last time.
func (k *kubelet) asked() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	calls := k.calls
	k.calls = nil
	return calls
}

func (k *kubelet) begin(call string) error {
	k.calls = append(k.calls, call)
	if k.exhausted > 0 {
		k.exhausted--
		return status.Error(codes.ResourceExhausted, "rejected by rate limit")
	}
	return nil
}

func (k *kubelet) containers(key string) []*podresources.ContainerResources {
	if spec := k.specs[key]; spec != nil {
		return listed(spec, "intel.com/sriov")
	}
	main := &podresources.ContainerResources{Name: "main"}
	side := &podresources.ContainerResources{Name: "side"}
	for resource, ids := range k.pods[key] {
		for i, id := range ids {
			c := main
			if i%2 == 1 {
				c = side
			}
			d := &podresources.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}}
			c.Devices = append(c.Devices, d, d)
		}
	}
	for _, c := range []*podresources.ContainerResources{main, side} {
		rand.Shuffle(len(c.Devices), func(i, j int) { c.Devices[i], c.Devices[j] = c.Devices[j], c.Devices[i] })
	}
	return []*podresources.ContainerResources{main, side}
}

func (k *kubelet) Get(_ context.Context, r *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.begin("Get"); err != nil {
		return nil, err
	}
	if k.noGet != nil {
		return nil, k.noGet
	}
	key := r.PodNamespace + "/" + r.PodName
	if k.pods[key] == nil && k.specs[key] == nil {
		return nil, errors.New("pod " + r.PodName + " in namespace " + r.PodNamespace + " not found")
	}
	return &podresources.GetPodResourcesResponse{PodResources: &podresources.PodResources{Namespace: r.PodNamespace, Name: r.PodName, Containers: k.containers(key)}}, nil
}

func (k *kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.begin("List"); err != nil {
		return nil, err
	}
	answer := &podresources.ListPodResourcesResponse{}
	for key := range k.pods {
		namespace, name := filepath.Split(key)
		answer.PodResources = append(answer.PodResources, &podresources.PodResources{Namespace: filepath.Clean(namespace), Name: name, Containers: k.containers(key)})
	}
	return answer, nil
}

var (
	pod1 = network.Pod{Namespace: "shop", Name: "till-0", UID: "uid-1"}
	pod2 = network.Pod{Namespace: "shop", Name: "till-1", UID: "uid-2"}
)

func TestDevices(t *testing.T) {
	tests := map[string]struct {
		noGet     error
		exhausted int
		calls     []string // of two questions
	}{
		"Get":                     {nil, 0, []string{"Get", "Get"}},
		"Get switched off":        {errors.New("PodResources API Get method disabled"), 0, []string{"Get", "List", "List"}},
		"Get not implemented":     {status.Error(codes.Unimplemented, "unknown method Get"), 0, []string{"Get", "List", "List"}},
		"the rate limit is spent": {nil, 2, []string{"Get", "Get", "Get", "Get"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fake := newKubelet(t)
			fake.noGet, fake.exhausted = tt.noGet, tt.exhausted
			fake.give(pod1, "intel.com/a", "0000:02:10.0", "0000:02:10.2", "0000:02:10.4")
			fake.give(pod2, "intel.com/a", "0000:02:10.6")
			k, err := NewKubelet(fake.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			for range 2 {
				got, err := k.Devices(t.Context(), pod1)
				if err != nil {
					t.Fatal(err)
				}
				got["intel.com/a"] = slices.Compact(slices.Sorted(slices.Values(got["intel.com/a"])))
				if d := cmp.Diff(map[string][]string{"intel.com/a": {"0000:02:10.0", "0000:02:10.2", "0000:02:10.4"}}, got); d != "" {
					t.Error(d)
				}
			}
			if d := cmp.Diff(tt.calls, fake.calls); d != "" {
				t.Error(d)
			}
		})
	}
}

// A sidecar's devices are the pod's, those of an init container that ends are not, unless a later container got them.
func TestDevicesOfSidecars(t *testing.T) {
	for name, tc := range map[string]struct {
		pod      []container
		networks string
		want     []string
		refused  []string
	}{
		"a container and a sidecar": {
			[]container{{"sidecar", []string{"0000:02:10.2"}}, {"app", []string{"0000:02:10.0"}}}, "a,a", []string{"0000:02:10.0", "0000:02:10.2"}, nil,
		},
		"an init container beside": {
			[]container{{"init", []string{"0000:02:10.4"}}, {"sidecar", []string{"0000:02:10.2"}}, {"app", []string{"0000:02:10.0"}}},
			"a,a,a", nil,
			[]string{"need 3 of", "the pod has 2", "0000:02:10.0, 0000:02:10.2", `intel.com/sriov: "3"`, "an init container's devices do not count"},
		},
		"an init container whose device a container got": {
			[]container{{"init", []string{"0000:02:10.4"}}, {"app", []string{"0000:02:10.4", "0000:02:10.6"}}}, "a,a", []string{"0000:02:10.4", "0000:02:10.6"}, nil,
		},
		"an init container alone": {
			[]container{{"init", []string{"0000:02:10.4"}}, {"app", nil}},
			"a", nil,
			[]string{"need 1 of", "the pod has 0", "the pod's devices: none", "an init container's devices do not count"},
		},
		"the init container's device by name": {
			[]container{{"init", []string{"0000:02:10.4"}}, {"sidecar", []string{"0000:02:10.2"}}, {"app", nil}},
			`[{"name":"a","deviceID":"0000:02:10.4"}]`, nil,
			[]string{"0000:02:10.4", "ForeignDevice", "(0000:02:10.2)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, func(n *node) {
				n.api.putNAD("a", "intel.com/sriov", sriovConf)
				n.kubelet.specs = map[string][]container{"shop/till-0": tc.pod}
			})
			if tc.refused != nil {
				n.wantCode(t, pod1, networks(tc.networks), codeInvalidConfig, tc.refused...)
				return
			}
			plan, err := n.client.Plan(t.Context(), agentapi.Plan{ContainerID: "c", Pod: pod1, Annotations: networks(tc.networks)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range plan.Attachments {
				got = append(got, a.Device.ID)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDevicesOfUnknownPod(t *testing.T) {
	for name, noGet := range map[string]error{"Get": nil, "List": errors.New("PodResources API Get method disabled")} {
		t.Run(name, func(t *testing.T) {
			fake := newKubelet(t)
			fake.noGet = noGet
			k, err := NewKubelet(fake.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if _, err := k.Devices(t.Context(), pod1); !errors.Is(err, ErrKubelet) {
				t.Errorf("got %v, want ErrKubelet", err)
			}
		})
	}
}

// A kubelet that restarts is away for a moment.
func TestDevicesAcrossRestart(t *testing.T) {
	fake := &kubelet{socket: filepath.Join(t.TempDir(), "kubelet.sock"), pods: map[string]map[string][]string{}}
	fake.give(pod1, "intel.com/a", "x")
	server := fake.start(t)
	k, err := NewKubelet(fake.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Devices(t.Context(), pod1); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	got := make(chan error, 1)
	go func() { _, err := k.Devices(t.Context(), pod1); got <- err }()
	fake.start(t)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}
