package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/viaduct-sriov/viaduct/internal/peer"
)

// Timing is how patient a server is.
type Timing struct {
	Look time.Duration // between two looks at the sockets; default 1 s
	// Unwatched is how long a running kubelet may leave a socket of the plugin watcher alone before the older Register
	// call is tried; default 30 s. Its watcher answers within a second, and retries failures for up to two minutes.
	Unwatched time.Duration
	// Reconnect is how long a kubelet whose stream ended may take to make a new one; default 2 s.
	Reconnect time.Duration
	// FirstPause and LastPause bound the pause between two sessions, which doubles; default 0.5 s and 30 s.
	FirstPause, LastPause time.Duration
}

func (t *Timing) setDefaults() {
	for field, value := range map[*time.Duration]time.Duration{
		&t.Look: time.Second, &t.Unwatched: 30 * time.Second, &t.Reconnect: 2 * time.Second,
		&t.FirstPause: 500 * time.Millisecond, &t.LastPause: 30 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
}

// Why a session ended.
var (
	errNoKubelet  = errors.New("the kubelet has not made its folders yet")
	errSocketGone = errors.New("our socket was removed or replaced")
	errRestarted  = errors.New("the kubelet restarted")
	errStreamOver = errors.New("the kubelet closed its stream of devices")
	errUnwatched  = errors.New("the kubelet's plugin watcher left our socket alone")
	errRefused    = errors.New("the kubelet refused the registration")
	errRegister   = errors.New("the call to register failed")
)

// run holds sessions, one after the other, until ctx ends: whatever goes wrong, there is a next one.
func (s *server) run(ctx context.Context) {
	byRegister := false // after the plugin watcher proved deaf
	pause := s.config.Timing.FirstPause
	for {
		started := time.Now()
		err := s.hold(ctx, byRegister)
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, errUnwatched):
			byRegister = true
		case errors.Is(err, errRegister):
			byRegister = false
		}
		if time.Since(started) > s.config.Timing.LastPause {
			pause = s.config.Timing.FirstPause
		}
		s.note(err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if errors.Is(err, errNoKubelet) {
			continue // looking for folders costs nothing: no longer pauses
		}
		pause = min(2*pause, s.config.Timing.LastPause)
	}
}

// note logs a problem when it is a new one.
func (s *server) note(err error, pause time.Duration) {
	s.mu.Lock()
	repeated := s.problem == err.Error()
	s.problem = err.Error()
	s.mu.Unlock()
	if !repeated {
		s.config.Log.Info("register again", "reason", err, "pause", pause)
	}
}

// A session is one socket and one registration.
type session struct {
	path       string
	kubelet    string // kubelet.sock
	byRegister bool   // the session registers there; false: the plugin watcher finds it
	inode      uint64
	timing     Timing

	mu       sync.Mutex
	streams  int
	since    time.Time // when the kubelet last showed that it knows the session
	streamed bool
	refused  error
}

func (n *session) streamStarts() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams++
	n.streamed, n.refused = true, nil
}

func (n *session) streamEnds() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams--
	n.since = time.Now()
}

// asked notes that the plugin watcher is on it.
func (n *session) asked() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.since = time.Now()
}

func (n *session) streaming() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.streams > 0
}

func (n *session) refuse(why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused = fmt.Errorf("%w: %s", errRefused, why)
}

// hold serves on a new socket and gets it registered, until that has to be done anew.
func (s *server) hold(ctx context.Context, byRegister bool) error {
	n, listener, err := s.open(byRegister)
	if err != nil {
		return err
	}
	// The default buffers are 64 KiB for each connection, of which there are several for each resource.
	g := grpc.NewServer(grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10))
	deviceplugin.RegisterDevicePluginServer(g, s)
	registration.RegisterRegistrationServer(g, registrar{name: s.name, session: n})
	s.attach(n)
	served := make(chan error, 1)
	go func() { served <- g.Serve(listener) }()
	defer func() {
		s.attach(nil)
		g.Stop()
		n.remove()
	}()
	if err := n.show(); err != nil {
		return err
	}
	if n.byRegister {
		if err := s.register(ctx, n); err != nil {
			return err
		}
	}
	return n.watch(ctx, served)
}

func (s *server) attach(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = n
}

// open makes the socket: where the plugin watcher looks, or beside kubelet.sock on a kubelet without one.
func (s *server) open(byRegister bool) (*session, net.Listener, error) {
	kubelet := filepath.Join(s.config.DevicePluginDir, "kubelet.sock")
	n := &session{kubelet: kubelet, timing: s.config.Timing, since: time.Now()}
	switch {
	case !byRegister && isDir(s.config.RegistryDir):
		n.path = socketPath(s.config.RegistryDir, s.name)
	case exists(kubelet):
		n.path, n.byRegister = socketPath(s.config.DevicePluginDir, s.name), true
	default:
		return nil, nil, fmt.Errorf("%w: neither %s nor %s is there", errNoKubelet, s.config.RegistryDir, kubelet)
	}
	if err := os.Remove(n.hidden()); err != nil && !errors.Is(err, fs.ErrNotExist) { // a killed predecessor left it
		return nil, nil, fmt.Errorf("remove old socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.hidden(), Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("listen to the kubelet: %w", err)
	}
	// Close must not remove the path: by then it may be another's.
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(n.hidden(), 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("close our socket to others: %w", err), listener.Close())
	}
	n.inode, _ = inode(n.hidden())
	return n, peer.Listener{UnixListener: listener, Log: s.config.Log}, nil
}

// hidden is where the socket is made: the plugin watcher passes by names with a dot.
func (n *session) hidden() string {
	dir, name := filepath.Split(n.path)
	return filepath.Join(dir, "."+name)
}

// show puts the socket where the kubelet looks, in place of one that is there. It is served by now: a socket is in its
// folder before anybody listens on it, and a kubelet that dials too early takes a pause.
func (n *session) show() error {
	if err := os.Rename(n.hidden(), n.path); err != nil {
		return fmt.Errorf("show our socket to the kubelet: %w", err)
	}
	return nil
}

func (n *session) remove() {
	for _, path := range []string{n.hidden(), n.path} {
		if i, err := inode(path); err == nil && i == n.inode {
			_ = os.Remove(path) // what cannot be removed now, the next session replaces, or complains of
		}
	}
}

// register asks the kubelet to dial our socket. It dials before it answers, so the server is up by now.
func (s *server) register(ctx context.Context, n *session) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+n.kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial the kubelet: %w", err)
	}
	defer func() { _ = conn.Close() }() // one call was made on it, and answered
	_, err = deviceplugin.NewRegistrationClient(conn).Register(ctx, &deviceplugin.RegisterRequest{
		Version: deviceplugin.Version, Endpoint: filepath.Base(n.path), ResourceName: s.name, Options: options(),
	})
	if err != nil {
		return fmt.Errorf("%w at %s: %w", errRegister, n.kubelet, err)
	}
	return nil
}

// watch waits until something makes a new session necessary.
func (n *session) watch(ctx context.Context, served <-chan error) error {
	kubelet, _ := inode(n.kubelet)
	ticker := time.NewTicker(n.timing.Look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-served:
			return fmt.Errorf("serve the kubelet: %w", err)
		case <-ticker.C:
		}
		// The kubelet's start empties the folder of kubelet.sock.
		if i, err := inode(n.path); err != nil || i != n.inode {
			return fmt.Errorf("%w: %s", errSocketGone, n.path)
		}
		if n.byRegister {
			if i, err := inode(n.kubelet); err == nil && i != kubelet {
				return errRestarted
			}
		}
		if err := n.broken(ctx); err != nil {
			return err
		}
	}
}

// broken reports what the kubelet's side lacks. The kubelet does not dial a second time when its stream breaks, and
// retries a refused registration at its own pace: a new socket makes it look at once.
func (n *session) broken(ctx context.Context) error {
	n.mu.Lock()
	idle, streamed, refused := n.streams == 0, n.streamed, n.refused
	since := time.Since(n.since)
	n.mu.Unlock()
	switch {
	case refused != nil:
		return refused
	case idle && streamed && since > n.timing.Reconnect:
		return errStreamOver
	case idle && !streamed && n.byRegister && since > n.timing.Unwatched:
		return fmt.Errorf("%w: it registered %s and never asked for its devices", errStreamOver, n.path)
	case idle && !streamed && !n.byRegister && since > n.timing.Unwatched && n.kubeletListens(ctx):
		return errUnwatched
	}
	return nil
}

// kubeletListens tells a kubelet that ignores us from one that is not running: its socket outlives a kill.
func (n *session) kubeletListens(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", n.kubelet)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent on it
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func inode(path string) (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, err
	}
	return s.Ino, nil
}
