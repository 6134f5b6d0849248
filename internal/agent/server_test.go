package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

func sorted(s []string) []string { slices.Sort(s); return s }

func newListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startServer runs a server alone, and returns its path and what stops it.
func startServer(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	if s.Log == nil {
		s.Log = testLog(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	eventually(t, func() error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", s.Path)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return stop
}

func answerPlan(context.Context, agentapi.Plan) (*network.Plan, error) {
	return &network.Plan{Pod: pod1}, nil
}

func TestServerModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent", "agent.sock")
	startServer(t, &Server{Path: path, Plan: answerPlan})
	for p, want := range map[string]os.FileMode{filepath.Dir(path): 0o700, path: 0o600} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", p, info.Mode().Perm(), err, want)
		}
	}
}

// A new agent takes over while the old one still listens, and the old one's end leaves the new one's socket alone.
func TestServerTakesOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	who := func(name string) func(context.Context, agentapi.Plan) (*network.Plan, error) {
		return func(context.Context, agentapi.Plan) (*network.Plan, error) {
			return &network.Plan{Pod: network.Pod{Name: name}}, nil
		}
	}
	stopOld := startServer(t, &Server{Path: path, Plan: who("old")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&Server{Path: path, Plan: who("new"), Log: testLog(t)}).Run(ctx) }()
	ask := func() string {
		plan, err := agentapi.Client{Socket: path}.Plan(t.Context(), agentapi.Plan{})
		if err != nil {
			t.Fatal(err)
		}
		return plan.Pod.Name
	}
	eventually(t, func() error {
		if got := ask(); got != "new" {
			return errors.New("answered by the " + got)
		}
		return nil
	})
	stopOld()
	if got := ask(); got != "new" {
		t.Errorf("answered by the %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServerRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	startServer(t, &Server{Path: path, Plan: answerPlan})
	say := func(t *testing.T, data []byte) (agentapi.Response, error) {
		t.Helper()
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.UnixConn).CloseWrite()
		var r agentapi.Response
		err = agentapi.ReadFrame(conn, &r)
		return r, err
	}
	frame := func(v any) []byte {
		var b bytes.Buffer
		if err := agentapi.WriteFrame(&b, v); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, tt := range map[string]struct {
		request agentapi.Request
		words   string
	}{
		"a stub one newer": {agentapi.Request{Version: agentapi.Version + 1, Plan: &agentapi.Plan{}}, "an upgrade is under way"},
		"a stub one older": {agentapi.Request{Version: agentapi.Version - 1, Plan: &agentapi.Plan{}}, "an upgrade is under way"},
		"no question":      {agentapi.Request{Version: agentapi.Version}, "exactly one question"},
		"two questions":    {agentapi.Request{Version: agentapi.Version, Plan: &agentapi.Plan{}, Report: &agentapi.Report{}}, "exactly one question"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := say(t, frame(tt.request))
			if err != nil || r.Error == nil || r.Version != agentapi.Version {
				t.Fatalf("got %+v, %v; want an error", r, err)
			}
			if r.Error.Code != codeTryAgain || !strings.Contains(r.Error.Error(), tt.words) {
				t.Errorf("got %d %v", r.Error.Code, r.Error)
			}
		})
	}
	t.Run("a stub whose questions have another form", func(t *testing.T) {
		r, err := say(t, frame(map[string]any{"version": agentapi.Version + 1, "plan": []int{1}}))
		if err != nil || r.Error == nil || !strings.Contains(r.Error.Error(), "an upgrade is under way") {
			t.Errorf("got %+v, %v", r, err)
		}
	})
	for name, data := range map[string][]byte{
		"an impossible length": binary.BigEndian.AppendUint32(nil, 1<<31),
		"cut short":            frame(agentapi.Request{Version: 1})[:10],
		"not JSON":             append(binary.BigEndian.AppendUint32(nil, 3), "xyz"...),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := say(t, data); err == nil {
				t.Errorf("got %+v", r)
			} else if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "reset") {
				t.Error(err)
			}
			if _, err := (agentapi.Client{Socket: path}).Plan(t.Context(), agentapi.Plan{}); err != nil {
				t.Errorf("the next request suffers: %v", err)
			}
		})
	}
}

// What a liveness probe asks is what a stub would get.
func TestServerIsAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	s := &Server{Path: path, Plan: answerPlan}
	if err := s.Alive(t.Context(), 100*time.Millisecond); err == nil {
		t.Error("it is alive before it listens")
	}
	deaf, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Alive(t.Context(), 100*time.Millisecond); err == nil {
		t.Error("it is alive though nobody accepts")
	}
	s.answered.Store(time.Now().UnixNano())
	if err := s.Alive(t.Context(), 100*time.Millisecond); err != nil {
		t.Errorf("busy: %v", err)
	}
	s.answered.Store(0)
	if err := deaf.Close(); err != nil {
		t.Fatal(err)
	}
	startServer(t, s)
	eventually(t, func() error { return s.Alive(t.Context(), time.Second) })
}

// The kernel's word on who connected holds even where somebody opened the socket to all.
func TestServerRefusesOthers(t *testing.T) {
	if os.Getenv("VIADUCT_TEST_DIAL") != "" {
		_, err := agentapi.Client{Socket: os.Getenv("VIADUCT_TEST_DIAL"), ConnectWait: 500 * time.Millisecond}.Plan(t.Context(), agentapi.Plan{})
		fmt.Printf("answer: %v\n", err)
		return
	}
	dir, err := os.MkdirTemp("/tmp", "viaduct-agent") //nolint:usetesting // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "agent", "agent.sock")
	var served atomic.Int32
	startServer(t, &Server{Path: path, Plan: func(context.Context, agentapi.Plan) (*network.Plan, error) {
		served.Add(1)
		return &network.Plan{}, nil
	}})
	self := filepath.Join(dir, "self")
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(self, program, 0o755), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(path), 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	run := func(uid uint32) string {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestServerRefusesOthers$")
		cmd.Env = append(os.Environ(), "VIADUCT_TEST_DIAL="+path)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := run(0); !strings.Contains(out, "answer: <nil>") {
		t.Fatalf("root was refused: %s", out)
	}
	before := served.Load()
	if out := run(65534); !strings.Contains(out, "does not answer") || served.Load() != before {
		t.Errorf("a user was served: %s", out)
	}
}

// In a boot storm, whoever waits for a free hand gets it in order of arrival.
func TestServerOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	const pods = 250
	begun, release := make(chan string, pods), make(chan struct{})
	startServer(t, &Server{Path: path, Plan: func(_ context.Context, ask agentapi.Plan) (*network.Plan, error) {
		begun <- ask.ContainerID
		<-release
		return &network.Plan{}, nil
	}})
	var answers sync.WaitGroup
	for i := range pods {
		// Each asks before the next one connects.
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := agentapi.WriteFrame(conn, agentapi.Request{Version: agentapi.Version, Plan: &agentapi.Plan{ContainerID: fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
		answers.Go(func() {
			defer conn.Close()
			var resp agentapi.Response
			if err := agentapi.ReadFrame(conn, &resp); err != nil || resp.Error != nil {
				t.Errorf("pod %d: %v %v", i, resp.Error, err)
			}
		})
	}
	for range maxRequests { // these work side by side, so among them there is no order
		<-begun
	}
	for i := maxRequests; i < pods; i++ {
		select {
		case id := <-begun:
			t.Fatalf("pod %s is the %d. at once", id, maxRequests+1)
		default:
		}
		release <- struct{}{}
		if got, want := <-begun, fmt.Sprint(i); got != want {
			t.Fatalf("pod %s came before pod %s", got, want)
		}
	}
	close(release)
	answers.Wait()
}

// A boot storm: 250 pods at once, all answered, never more than maxRequests at work.
func TestServerStorm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	var now, most atomic.Int32
	startServer(t, &Server{Path: path, Plan: func(context.Context, agentapi.Plan) (*network.Plan, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return &network.Plan{}, nil
	}})
	var wg sync.WaitGroup
	for range 250 {
		wg.Go(func() {
			if _, err := (agentapi.Client{Socket: path}).Plan(t.Context(), agentapi.Plan{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > maxRequests {
		t.Errorf("%d requests at once, %d at most", most.Load(), maxRequests)
	}
}

// What takes the socket away from a living agent must not leave the node without one, while its probes say that all is well.
func TestServerComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	startServer(t, &Server{Path: path, Plan: answerPlan, Look: 10 * time.Millisecond})
	reached := func() error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, reached)

	next, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // it is looked at, and left alone while somebody accepts
		conn, err := next.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close() // it was only asked whether it is there
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(theirs, now) {
		t.Errorf("a living agent's socket was replaced: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, reached)
}
