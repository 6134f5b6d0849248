package delegate

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeWait is how long a plugin's output may stay open after it exited: a child of it may hold it.
	pipeWait = 2 * time.Second
	// exitPoll is how often to look whether a plugin has exited where the kernel cannot say (no pidfds before Linux 5.4).
	exitPoll = 5 * time.Millisecond
)

// A child is a plugin that was started, and this process's ends of its pipes.
//
// os/exec would do. But the stub starts for every sandbox, to start a plugin or two, and os/exec first starts a process to
// learn what the kernel can do, and has goroutines, and so threads, wait for each pipe. This is one loop in one thread.
type child struct {
	pid                          int
	stdin, stdout, stderr, pidfd int // -1: closed, or none

	mu     sync.Mutex
	reaped bool // pid may be another process's
}

// spawn starts the program at path. It dies with the calling thread. Close it.
func spawn(path string, env []string) (*child, error) {
	var theirs [3]int
	c := &child{stdin: -1, stdout: -1, stderr: -1, pidfd: -1}
	for i, ours := range []*int{&c.stdin, &c.stdout, &c.stderr} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			closeAll(theirs[:i]...)
			c.close()
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		if theirs[i], *ours = p[0], p[1]; i > 0 {
			theirs[i], *ours = p[1], p[0]
		}
	}
	defer closeAll(theirs[:]...)
	// A plugin, or a child of it, that does not read its configuration does not stop this process.
	err := unix.SetNonblock(c.stdin, true)
	if err == nil {
		c.pid, _, err = syscall.StartProcess(path, []string{path}, &syscall.ProcAttr{
			Env: env, Files: []uintptr{uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2])},
			Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, PidFD: &c.pidfd},
		})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd) // a pipe's end has nothing to lose
		}
	}
}

func (c *child) close() {
	closeAll(c.stdin, c.stdout, c.stderr, c.pidfd)
	c.stdin, c.stdout, c.stderr, c.pidfd = -1, -1, -1, -1
}

// kill ends the plugin and what it has started, unless it has ended. It may be called at any time.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = unix.Kill(-c.pid, unix.SIGKILL) // it is a child of this process, and not reaped: the group is there
	}
}

// talk gives the plugin its configuration, takes its output, and returns when it has ended; it is killed if that is not until
// then. The error says how it ended, if not well, and wraps errTimeout if it was killed; what stdout or stderr refuses is no
// error. What a plugin does not read is not written: it need not read. One that hangs in the kernel is not waited for to the end.
//
// The time is poll's, not a context's: a timer would start a thread.
func (c *child) talk(config []byte, until time.Time, stdout, stderr io.Writer) error {
	var ended error
	var killed time.Time
	exited, late := false, false
	for {
		left := time.Until(until)
		switch {
		case exited && (c.stdout < 0 && c.stderr < 0 || left <= 0):
			return ended
		case late && !exited && time.Since(killed) > endWait:
			return fmt.Errorf("%w, but is still there after %v: it hangs in the kernel", errTimeout, endWait)
		case left <= 0:
			if !late {
				killed = time.Now()
			}
			c.kill()
			late, left = true, exitPoll // it ends as soon as the kernel lets it
		case !exited && c.pidfd < 0:
			left = min(left, exitPoll)
		}
		fds := [...]unix.PollFd{
			{Fd: int32(c.stdin), Events: unix.POLLOUT},
			{Fd: int32(c.stdout), Events: unix.POLLIN},
			{Fd: int32(c.stderr), Events: unix.POLLIN},
			{Fd: int32(c.pidfd), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(fds[:], int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			c.kill()
			return fmt.Errorf("wait for its output: %w", err)
		}
		if fds[0].Revents != 0 {
			config = c.write(config)
		}
		if fds[1].Revents != 0 {
			read(&c.stdout, stdout)
		}
		if fds[2].Revents != 0 {
			read(&c.stderr, stderr)
		}
		if !exited && (fds[3].Revents != 0 || c.pidfd < 0) {
			if exited, ended = c.reap(); exited {
				shut(&c.stdin)
				shut(&c.pidfd)
				until = time.Now().Add(pipeWait)
			}
			if ended != nil && late {
				ended = fmt.Errorf("%w: %w", errTimeout, ended)
			}
		}
	}
}

// write writes what the pipe takes, and closes it behind the last byte. It returns what is left.
func (c *child) write(config []byte) []byte {
	n, err := unix.Write(c.stdin, config)
	if n > 0 {
		config = config[n:]
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return config
	}
	if err != nil || len(config) == 0 { // a plugin may end without having read it all
		shut(&c.stdin)
	}
	return config
}

// read passes on what is there, and closes fd at its end.
func read(fd *int, to io.Writer) {
	var buf [4096]byte
	n, err := unix.Read(*fd, buf[:])
	if errors.Is(err, unix.EINTR) {
		return
	}
	if n > 0 {
		_, err = to.Write(buf[:n])
	}
	if err != nil || n <= 0 {
		shut(fd)
	}
}

func shut(fd *int) {
	closeAll(*fd)
	*fd = -1
}

// reap reports whether the plugin has ended, and how, if not well.
func (c *child) reap() (done bool, how error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(c.pid, &status, unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.EINTR), err == nil && pid == 0:
		return false, nil
	case err != nil: // somebody else reaps this process's children
		how = fmt.Errorf("learn how it ended: %w", err)
	case status != 0:
		how = exitError(status)
	}
	c.reaped = true
	return true, how
}

// An exitError is how a plugin ended that did not end well.
type exitError unix.WaitStatus

func (e exitError) Error() string {
	s := unix.WaitStatus(e)
	if s.Signaled() {
		return "it was ended by a signal: " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
