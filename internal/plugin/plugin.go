// Package plugin offers resources to the kubelet: one gRPC server per resource, its registration, and the answer to
// Allocate. Which devices a resource has, and whether they are healthy, it is told.
package plugin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
)

// A Resource is what the kubelet is told of one pool.
type Resource struct {
	Name    string // such as intel.com/sriov
	Devices []Device
	// ExcludeTopology keeps the devices' NUMA nodes from the kubelet.
	ExcludeTopology bool
	// Spread prefers devices of many PFs over devices of few.
	Spread bool
	// AdditionalInfo is what containers are told of a device: by its id, or "*" for all.
	AdditionalInfo map[string]map[string]string
}

// A Device is one id of a resource.
type Device struct {
	ID        string // a PCI address, or the name of a subfunction
	Unhealthy string // why; empty: healthy
	NUMANode  int    // -1: not known
	PF        string // the PF's address; empty if it has none
	Needs
}

// Needs are what a container is given beside what the device's driver says.
type Needs struct {
	RDMA, VhostNet bool
	VDPA           string // vhost, virtio: the device is used through its vDPA device; empty: it is not
}

// Config is what all servers share.
type Config struct {
	// RegistryDir is the kubelet's plugin watcher's folder, DevicePluginDir the one with kubelet.sock.
	RegistryDir, DevicePluginDir string
	// Root is where sysfs is found below.
	Root    string
	DevInfo devinfo.Dir
	// CDI is where specifications go that name the containers' device nodes; nil: they go into the answer to the kubelet.
	CDI *cdi.Dir
	Log *slog.Logger
	// Allocating is told which devices of a resource are about to be allocated, before anything is written for them. Its
	// error says why that cannot be. Nil: nobody is asked.
	Allocating func(resource string, ids []string) error
	// Allocated is told of each Allocate: its resource, ids, duration, and error. Nil: nobody is.
	Allocated func(resource string, ids []string, took time.Duration, err error)
	// Timing is for tests; the zero value is right for a kubelet.
	Timing Timing
}

// A Set is the servers of all resources.
type Set struct {
	config  Config
	mu      sync.Mutex
	servers map[string]*running
}

type running struct {
	server *server
	stop   context.CancelFunc
	done   chan struct{}
}

// NewSet makes a set without servers.
func NewSet(config Config) *Set {
	config.Timing.setDefaults()
	return &Set{config: config, servers: map[string]*running{}}
}

// Update makes the set serve exactly these resources: new ones get a server, which lives until ctx ends or a later Update
// leaves it out; the others' kubelet is told what changed.
func (s *Set) Update(ctx context.Context, resources []Resource) {
	s.mu.Lock()
	var stopped []*running
	for name, r := range s.servers {
		if !slices.ContainsFunc(resources, func(x Resource) bool { return x.Name == name }) {
			r.stop()
			stopped = append(stopped, r)
			delete(s.servers, name)
			s.config.Log.Info("stop offering a resource", "resource", name)
		}
	}
	for _, x := range resources {
		if r, ok := s.servers[x.Name]; ok {
			r.server.set(x)
			continue
		}
		s.config.Log.Info("offer a resource", "resource", x.Name, "devices", len(x.Devices))
		s.servers[x.Name] = start(ctx, newServer(s.config, x))
	}
	s.mu.Unlock()
	for _, r := range stopped {
		<-r.done
	}
}

func start(ctx context.Context, server *server) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{server: server, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		server.run(ctx)
	}()
	return r
}

// Close stops all servers, removes their sockets and waits for it.
func (s *Set) Close() { s.Update(context.Background(), nil) }

// A Status is how a resource's server stands with the kubelet.
type Status struct {
	Resource string
	// Registered says that the kubelet watches the resource's devices.
	Registered bool
	// Problem is what last went wrong; empty once the kubelet is there.
	Problem string
	// Socket is where the server answers; empty while it has none.
	Socket string
}

// Status reports on all servers, by resource.
func (s *Set) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, len(s.servers))
	for _, r := range s.servers {
		all = append(all, r.server.status())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Resource, b.Resource) })
	return all
}
