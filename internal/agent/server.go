package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/peer"
)

const (
	// acceptPause is how long to wait after an accept that failed.
	acceptPause = 50 * time.Millisecond
	// maxRequests bounds how many requests are worked on at once; the others wait in the socket's queue, in order.
	maxRequests = 128
	// frameWait bounds how long a peer may take to send its request or to take its answer.
	frameWait = 10 * time.Second
	// answerWait bounds the work on one request: what the stub waits, less what it takes to tell it.
	answerWait = agentapi.AnswerWait - 5*time.Second
)

// A Server answers the stub on a unix socket.
type Server struct {
	Path   string
	Plan   func(context.Context, agentapi.Plan) (*network.Plan, error)
	Report func(context.Context, agentapi.Report) error
	Log    *slog.Logger
	// Look replaces, if not 0, how often the server looks whether its socket is where stubs find it: 5 s.
	Look time.Duration

	answered atomic.Int64 // when a request was last answered, in nanoseconds since 1970
}

// Run listens and answers until ctx ends, then finishes what it has begun. A socket that somebody removed, or that belonged to
// an agent which took over and died, is made anew.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, maxRequests)
	for {
		l, err := listen(s.Path)
		if err != nil {
			return err
		}
		s.accept(ctx, l, free, &wg)
		if ctx.Err() != nil {
			return nil
		}
		s.Log.Warn("The agent's socket was gone or nobody's; making it anew", "path", s.Path)
	}
}

// accept answers until ctx ends, or the socket is out of reach.
func (s *Server) accept(ctx context.Context, l *net.UnixListener, free chan struct{}, wg *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	if own, err := os.Stat(s.Path); err == nil {
		wg.Go(func() {
			for pause(ctx, cmp.Or(s.Look, 5*time.Second)) {
				if s.isLost(ctx, own) {
					cancel()
				}
			}
		})
	}
	for {
		free <- struct{}{}
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			<-free
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil { // too many open files, say: it passes, and the pods that wait must not wait for a restart
			<-free
			s.Log.Warn("Cannot accept a connection on the agent's socket", "err", err)
			pause(ctx, acceptPause)
			continue
		}
		wg.Go(func() {
			defer func() { <-free }()
			if err := s.serve(context.WithoutCancel(ctx), conn); err != nil {
				s.Log.Warn("A request on the agent's socket failed", "err", err)
			}
		})
	}
}

// Alive asks for an answer on the socket, as a stub does, for a wait. An agent that has answered others within a minute, and has
// many to answer, is alive, too.
func (s *Server) Alive(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := agentapi.Client{Socket: s.Path}.Ping(ctx)
	if err != nil && time.Since(time.Unix(0, s.answered.Load())) < time.Minute {
		return nil
	}
	return err
}

// isLost reports whether no stub can reach an agent any more: there is no socket, or one of which nobody accepts. A living agent
// that has taken over has done so for good.
func (s *Server) isLost(ctx context.Context, own os.FileInfo) bool {
	now, err := os.Stat(s.Path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	if os.SameFile(own, now) {
		return false
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", s.Path)
	if err == nil {
		_ = conn.Close() // it only had to answer
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// listen takes the socket's path over by rename: there is no moment without an agent while one replaces another, and what
// a killed agent left is no obstacle.
func listen(path string) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close the socket's folder to others: %w", err)
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("clear the way for the socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// It would remove temp, or what the next agent has put there. A dead socket refuses a connection as fast as none.
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("put the socket in place: %w", err), l.Close())
	}
	return l, nil
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := peer.Check(conn); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(frameWait)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	var req agentapi.Request
	if err := agentapi.ReadFrame(conn, &req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	answer := s.answer(ctx, req)
	if err := conn.SetDeadline(time.Now().Add(frameWait)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	if err := agentapi.WriteFrame(conn, answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	s.answered.Store(time.Now().UnixNano())
	return nil
}

func (s *Server) answer(ctx context.Context, req agentapi.Request) (answer agentapi.Response) {
	answer.Version = agentapi.Version
	var err error
	switch {
	case req.Version != agentapi.Version:
		err = &agentapi.Error{
			Code:    codeTryAgain,
			Message: fmt.Sprintf("meta-cni speaks protocol version %d, the node agent speaks %d", req.Version, agentapi.Version),
			Details: "an upgrade is under way; if this stays, install meta-cni and meta-agent of the same release",
		}
	case req.Plan != nil && req.Report == nil:
		answer.Plan, err = s.Plan(ctx, *req.Plan)
	case req.Report != nil && req.Plan == nil:
		err = s.Report(ctx, *req.Report)
	default:
		err = &agentapi.Error{Code: codeTryAgain, Message: "the request holds not exactly one question"}
	}
	if err != nil {
		answer.Plan, answer.Error = nil, refusal(err)
	}
	return answer
}
