package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
	"github.com/viaduct-sriov/viaduct/test/lab/kernellog"
)

// lastWords is how long processes that outlive the command may take to end after SIGTERM.
const lastWords = 2 * time.Second

// session is one command and its line to the host.
type session struct {
	conn  *wire.Conn
	input chan []byte   // stdin of the command; an empty slice ends it
	bye   chan struct{} // closed when the host has all it wants

	mu  sync.Mutex
	pid int      // leader of the command's process group, 0 before it runs
	pty *os.File // nil without a terminal
}

func newSession(conn *wire.Conn) *session {
	return &session{conn: conn, input: make(chan []byte, 4), bye: make(chan struct{})}
}

// run sets the machine up, runs the job's command and returns its exit status.
func (s *session) run(job wire.Job) (int, error) {
	if err := setUp(job); err != nil {
		return 0, err
	}
	if err := s.conn.Send(wire.Ready, nil); err != nil {
		return 0, err
	}
	go s.listen()
	streams, err := s.open(job)
	if err != nil {
		return 0, err
	}
	pid, err := start(job, streams)
	streams.closeChildSide()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.pid, s.pty = pid, streams.pty
	s.mu.Unlock()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		streams.drain(s.conn)
	}()
	go s.feed(streams.stdin)
	code := status(reap(pid))
	endTheRest(drained)
	if code != 0 && strings.HasSuffix(job.Argv[0], ".test") { // other programs' output is theirs alone
		_ = s.conn.Send(wire.Stderr, []byte("lab: the command failed; the end of the guest's kernel log:\n"+kernellog.Tail(20)+"\n")) // if this cannot be sent, neither can the status
	}
	return code, errors.Join(returnFiles(job.Return), flush(job))
}

func flush(job wire.Job) error {
	if job.Persist {
		return unmountPersist()
	}
	unix.Sync()
	return nil
}

// start runs the command in a process group of its own, so that a signal from the host reaches all of it.
func start(job wire.Job, st *streams) (int, error) {
	path, err := lookPath(job)
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Dir: job.Dir, Env: job.Env, Files: st.child(), Sys: &syscall.SysProcAttr{}}
	if job.TTY {
		attr.Sys.Setsid, attr.Sys.Setctty, attr.Sys.Ctty = true, true, 0
	} else {
		attr.Sys.Setpgid = true
	}
	// Not os/exec: process 1 has to reap every orphan with wait4(-1), which would take the status from it.
	pid, err := syscall.ForkExec(path, job.Argv, attr)
	if err != nil {
		return 0, fmt.Errorf("start %s in %s: %w", path, job.Dir, err)
	}
	return pid, nil
}

func lookPath(job wire.Job) (string, error) {
	name := job.Argv[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(job.Dir, name)
		}
		return name, nil
	}
	for _, kv := range job.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			if err := os.Setenv("PATH", v); err != nil {
				return "", fmt.Errorf("set PATH: %w", err)
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find the command: %w", err)
	}
	return path, nil
}

// reap collects children, orphans included, until the one with the given pid has ended.
func reap(pid int) syscall.WaitStatus {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return ws // ECHILD: it cannot happen before pid was collected
		}
		if got == pid && (ws.Exited() || ws.Signaled()) {
			return ws
		}
	}
}

// endTheRest ends what the command left running, which would otherwise hold its output open and /persist busy.
func endTheRest(drained <-chan struct{}) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, err := syscall.Wait4(-1, nil, 0, nil); errors.Is(err, syscall.ECHILD) {
				return
			}
		}
	}()
	_ = syscall.Kill(-1, syscall.SIGTERM) // ESRCH when there is nothing left
	select {
	case <-gone:
	case <-time.After(lastWords):
		_ = syscall.Kill(-1, syscall.SIGKILL)
	}
	select {
	case <-drained:
	case <-time.After(lastWords): // a process stuck in the kernel: its output is not worth hanging for
	}
}

// listen handles what the host sends until it says goodbye or is gone.
func (s *session) listen() {
	defer close(s.bye)
	defer close(s.input)
	for {
		kind, payload, err := s.conn.Receive()
		if err != nil {
			fmt.Fprintf(os.Stderr, "viaduct lab guest: listen to the host: %v\n", err)
			return
		}
		switch kind {
		case wire.Bye:
			return
		case wire.Stdin:
			s.input <- payload // never blocks for long: the host sends the next after InputTaken
		case wire.Signal:
			if n, err := wire.Number(payload); err == nil {
				s.signal(syscall.Signal(n))
			}
		case wire.Resize:
			s.resize(payload)
		}
	}
}

func (s *session) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid > 0 {
		_ = syscall.Kill(-s.pid, sig) // ESRCH: it has just ended, and its status is on the way
	}
}

func (s *session) resize(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pty == nil || len(payload) != 4 {
		return
	}
	size := &unix.Winsize{Row: binary.BigEndian.Uint16(payload), Col: binary.BigEndian.Uint16(payload[2:])}
	_ = unix.IoctlSetWinsize(int(s.pty.Fd()), unix.TIOCSWINSZ, size) // a wrong size is not worth ending a shell
}

// feed writes the host's input to the command, and says after each piece that the next may come.
func (s *session) feed(stdin io.WriteCloser) {
	for piece := range s.input {
		if len(piece) == 0 {
			_ = stdin.Close()
			continue
		}
		_, _ = stdin.Write(piece) // EPIPE: a command may close its input, and what follows is lost as on any pipe
		if err := s.conn.Send(wire.InputTaken, nil); err != nil {
			return
		}
	}
}

// returnFiles copies what the command wrote to the share that brings it to the host. A file that is not there was not
// written, and that is no error: a test that fails early writes no profile.
func returnFiles(files map[string]string) error {
	var errs []error
	for path, name := range files {
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(wire.ReturnDir, name), raw, 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("return %s to the host: %w", path, err))
		}
	}
	return errors.Join(errs...)
}
