package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// A server is one resource towards the kubelet. It outlives its sessions: each is one socket and one registration.
type server struct {
	deviceplugin.UnimplementedDevicePluginServer
	config Config
	name   string // the resource's; it never changes, so it needs no lock

	mu       sync.Mutex
	resource Resource
	changed  chan struct{} // closed and replaced when the devices change
	problem  string
	session  *session // nil between sessions
}

func newServer(config Config, resource Resource) *server {
	config.Log = config.Log.With("resource", resource.Name)
	return &server{config: config, name: resource.Name, resource: resource, changed: make(chan struct{})}
}

// set replaces the resource, and wakes the streams if there is a difference.
func (s *server) set(r Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.resource
	s.resource = r
	if old.ExcludeTopology == r.ExcludeTopology && sameDevices(old.Devices, r.Devices) {
		return
	}
	s.logChanges(old.Devices, r.Devices)
	close(s.changed)
	s.changed = make(chan struct{})
}

// sameDevices looks first whether it is one list: of many resources most are as they were.
func sameDevices(a, b []Device) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func (s *server) logChanges(before, after []Device) {
	old := make(map[string]Device, len(before))
	for _, d := range before {
		old[d.ID] = d
	}
	for _, d := range after {
		was, known := old[d.ID]
		delete(old, d.ID)
		switch {
		case !known:
			s.config.Log.Info("device joins", "device", d.ID, "unhealthy", d.Unhealthy)
		case was.Unhealthy == d.Unhealthy:
		case d.Unhealthy != "": // now, or for another reason
			s.config.Log.Warn("device is unhealthy", "device", d.ID, "reason", d.Unhealthy)
		default:
			s.config.Log.Info("device is healthy again", "device", d.ID)
		}
	}
	for id := range old {
		s.config.Log.Info("device leaves", "device", id)
	}
}

func (s *server) state() (Resource, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resource, s.changed
}

func (s *server) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Resource: s.resource.Name, Problem: s.problem}
	if s.session != nil {
		st.Socket = s.session.path
		st.Registered = s.session.streaming()
	}
	if st.Registered {
		st.Problem = ""
	}
	return st
}

func (s *server) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return options(), nil
}

func options() *deviceplugin.DevicePluginOptions {
	return &deviceplugin.DevicePluginOptions{GetPreferredAllocationAvailable: true}
}

// ListAndWatch sends the devices at once and after each change, until the kubelet goes or the session ends. A kubelet
// that connects twice has two streams, each with all of it.
func (s *server) ListAndWatch(_ *deviceplugin.Empty, stream grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	s.mu.Lock()
	session := s.session
	s.mu.Unlock()
	if session == nil {
		return status.Error(codes.Unavailable, "the server is stopping")
	}
	session.streamStarts()
	defer session.streamEnds()
	for {
		resource, changed := s.state()
		if err := stream.Send(&deviceplugin.ListAndWatchResponse{Devices: advertised(&resource)}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func advertised(r *Resource) []*deviceplugin.Device {
	devices := make([]*deviceplugin.Device, len(r.Devices))
	for i, d := range r.Devices {
		devices[i] = &deviceplugin.Device{ID: d.ID, Health: deviceplugin.Healthy}
		if d.Unhealthy != "" {
			devices[i].Health = deviceplugin.Unhealthy
		}
		if d.NUMANode >= 0 && !r.ExcludeTopology {
			devices[i].Topology = &deviceplugin.TopologyInfo{Nodes: []*deviceplugin.NUMANode{{ID: int64(d.NUMANode)}}}
		}
	}
	return devices
}

// Allocate answers what the containers need for their devices. The device-info files are there before it returns.
func (s *server) Allocate(_ context.Context, request *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	resource, _ := s.state()
	response := &deviceplugin.AllocateResponse{}
	for _, c := range request.GetContainerRequests() {
		started := time.Now()
		answer, err := s.allocate(&resource, c.GetDevicesIds())
		took := time.Since(started)
		if s.config.Allocated != nil {
			s.config.Allocated(resource.Name, c.GetDevicesIds(), took, err)
		}
		if err != nil {
			s.config.Log.Warn("refuse an allocation", "devices", c.GetDevicesIds(), "err", err)
			return nil, err
		}
		s.config.Log.Info("allocate", "devices", c.GetDevicesIds(), "took", took)
		response.ContainerResponses = append(response.ContainerResponses, answer)
	}
	return response, nil
}

// PreStartContainer does nothing: the options tell the kubelet not to call it.
func (s *server) PreStartContainer(context.Context, *deviceplugin.PreStartContainerRequest) (*deviceplugin.PreStartContainerResponse, error) {
	return &deviceplugin.PreStartContainerResponse{}, nil
}

// GetPreferredAllocation chooses among the devices that the kubelet could give. It has no errors: the kubelet would fail
// the pod on one, and does without a preference that it cannot follow.
func (s *server) GetPreferredAllocation(_ context.Context, request *deviceplugin.PreferredAllocationRequest) (*deviceplugin.PreferredAllocationResponse, error) {
	resource, _ := s.state()
	response := &deviceplugin.PreferredAllocationResponse{}
	for _, c := range request.GetContainerRequests() {
		ids := prefer(&resource, c.GetAvailableDeviceIDs(), c.GetMustIncludeDeviceIDs(), int(c.GetAllocationSize()))
		response.ContainerResponses = append(response.ContainerResponses, &deviceplugin.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return response, nil
}

// A registrar answers the kubelet's plugin watcher for one session.
type registrar struct {
	registration.UnimplementedRegistrationServer
	name    string
	session *session
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	r.session.asked()
	return &registration.PluginInfo{
		Type: registration.DevicePlugin, Name: r.name, SupportedVersions: []string{deviceplugin.Version},
	}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.GetPluginRegistered() {
		r.session.refuse(s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// maxSocket is the longest path that a socket can have.
const maxSocket = len(unix.RawSockaddrUnix{}.Path) - 1

// socketPath is where a resource's socket goes: <prefix>_<name>.sock, or a hash of that if it is too long for the kernel
// (with one byte more, since it is made under a hidden name).
func socketPath(dir, resource string) string {
	path := filepath.Join(dir, strings.ReplaceAll(resource, "/", "_")+".sock")
	if len(path)+1 > maxSocket {
		sum := sha256.Sum256([]byte(resource))
		path = filepath.Join(dir, hex.EncodeToString(sum[:12])+".sock")
	}
	return path
}
