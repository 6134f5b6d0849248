package plugin_test

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
)

// A kubelet does what a kubelet's plugin watcher and device manager do with sockets, and can misbehave on purpose. What
// it stands in for is the order of calls; the lab has the real one.
type kubelet struct {
	deviceplugin.UnimplementedRegistrationServer
	t   *testing.T
	dir string // the kubelet's root

	refuse  int  // this many registrations are refused
	deaf    bool // the plugin watcher does nothing
	streams int  // how many streams it opens to a plugin; 0 is 1

	mu     sync.Mutex
	lists  map[string][]*deviceplugin.Device // by resource, the last one
	counts map[string]int                    // how often a list came
	calls  map[string]int                    // how often something was done
	dialed map[string]uint64                 // sockets that were handled
	ctx    context.Context
	cancel context.CancelFunc
	server *grpc.Server
	wg     sync.WaitGroup
}

func newKubelet(t *testing.T) *kubelet {
	// Not t.TempDir: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &kubelet{
		t: t, dir: dir, lists: map[string][]*deviceplugin.Device{}, counts: map[string]int{}, calls: map[string]int{},
		dialed: map[string]uint64{},
	}
}

func (k *kubelet) registry() string { return filepath.Join(k.dir, "plugins_registry") }
func (k *kubelet) plugins() string  { return filepath.Join(k.dir, "device-plugins") }

// start makes the folders, empties device-plugins, listens on kubelet.sock and follows plugins_registry.
func (k *kubelet) start() {
	k.t.Helper()
	k.check(os.MkdirAll(k.registry(), 0o750))
	k.check(os.RemoveAll(k.plugins()))
	k.check(os.MkdirAll(k.plugins(), 0o750))
	listener, err := new(net.ListenConfig).Listen(k.t.Context(), "unix", filepath.Join(k.plugins(), "kubelet.sock"))
	k.check(err)
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.server = grpc.NewServer()
	deviceplugin.RegisterRegistrationServer(k.server, k)
	k.mu.Lock()
	clear(k.dialed)
	k.mu.Unlock()
	server, ctx := k.server, k.ctx
	k.wg.Go(func() { _ = server.Serve(listener) })
	k.wg.Go(func() { k.follow(ctx) })
}

func (k *kubelet) stop() {
	k.cancel()
	k.server.Stop()
	k.wg.Wait()
}

func (k *kubelet) check(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// follow is the plugin watcher: each new socket once.
func (k *kubelet) follow(ctx context.Context) {
	for ctx.Err() == nil {
		entries, _ := os.ReadDir(k.registry())
		for _, e := range entries {
			path := filepath.Join(k.registry(), e.Name())
			if k.deaf || strings.HasPrefix(e.Name(), ".") || !k.isNew(path) {
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

func (k *kubelet) isNew(path string) bool {
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

func (k *kubelet) pickUp(ctx context.Context, path string) {
	conn, err := dial(path)
	k.check(err)
	defer func() { _ = conn.Close() }()
	client := registration.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return // the socket went meanwhile
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

func (k *kubelet) refuses() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.calls["refused"] >= k.refuse {
		return false
	}
	k.calls["refused"]++
	return true
}

// Register is the older way.
func (k *kubelet) Register(_ context.Context, r *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	if k.refuses() {
		return nil, status.Error(codes.Unavailable, "not today")
	}
	if r.GetVersion() != deviceplugin.Version {
		k.t.Errorf("version %s", r.GetVersion())
	}
	k.mu.Lock()
	k.calls["registered"]++
	k.mu.Unlock()
	k.connect(k.ctx, r.GetResourceName(), filepath.Join(k.plugins(), r.GetEndpoint()))
	return &deviceplugin.Empty{}, nil
}

// connect opens the streams.
func (k *kubelet) connect(ctx context.Context, resource, path string) {
	for range max(1, k.streams) {
		conn, err := dial(path)
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

// hangUp ends all streams from the kubelet's side, and dials no socket again that it has seen.
func (k *kubelet) hangUp() {
	k.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	k.ctx, k.cancel = ctx, cancel
	k.wg.Go(func() { k.follow(ctx) })
}

func dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// devices is what the kubelet knows of a resource, as id and health; nil: it has no stream.
func (k *kubelet) devices(resource string) map[string]string {
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

func (k *kubelet) count(what string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[what] + k.counts[what]
}

// eventually polls until ok, and fails the test if that takes too long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // a poll's pause
	}
}
