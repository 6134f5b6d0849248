package operator

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A fakeKubelet says what pods have.
type fakeKubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	pods []*podresources.PodResources
}

func (k *fakeKubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	return &podresources.ListPodResourcesResponse{PodResources: k.pods}, nil
}

func (k *fakeKubelet) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	return &podresources.AllocatableResourcesResponse{}, nil
}

func TestDevicesOf(t *testing.T) {
	root := t.TempDir()
	n := Node{KubeletRoot: root}
	if _, err := n.DevicesOf(t.Context(), "shop", "web"); err == nil {
		t.Error("a kubelet that is not there answers")
	}
	if err := os.Mkdir(filepath.Join(root, "pod-resources"), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(root, "pod-resources/kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	container := func(resource string, ids ...string) *podresources.ContainerResources {
		return &podresources.ContainerResources{Name: resource, Devices: []*podresources.ContainerDevices{{ResourceName: resource, DeviceIds: ids}}}
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, &fakeKubelet{pods: []*podresources.PodResources{
		{Namespace: "shop", Name: "web", Containers: []*podresources.ContainerResources{
			container("intel.com/a", "0000:02:10.0", "0000:02:10.2"), container("intel.com/b", "0000:03:10.0"), container("intel.com/a", "0000:02:10.4"),
		}},
		{Namespace: "shop", Name: "other", Containers: []*podresources.ContainerResources{container("intel.com/a", "0000:02:10.6")}},
		{Namespace: "bank", Name: "web", Containers: []*podresources.ContainerResources{container("intel.com/a", "0000:02:11.0")}},
	}})
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	defer server.Stop()

	for name, want := range map[string]map[string][]string{
		"web":  {"intel.com/a": {"0000:02:10.0", "0000:02:10.2", "0000:02:10.4"}, "intel.com/b": {"0000:03:10.0"}},
		"away": {},
	} {
		got, err := n.DevicesOf(t.Context(), "shop", name)
		if err != nil {
			t.Fatal(err)
		}
		for _, ids := range got {
			slices.Sort(ids)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
