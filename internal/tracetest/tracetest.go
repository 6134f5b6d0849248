//go:build amd64

// Package tracetest kills programs at exact points, for tests: it stops a program and all that it starts at each call that
// changes a file, a network interface or a driver, or starts or ends a program, counts those calls with one counter over
// all threads and children, and can kill the program just before or just after any of them. Which calls there are is not
// listed anywhere but found on the way. A seccomp filter chooses them in the kernel, so that all others run at full speed.
//
// It needs root, and a launcher: a program whose main calls Launch. A small one is started faster than a test.
package tracetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Kill says where to kill the program: at its call number At, counted from 1 (0: nowhere), before it or after it.
type Kill struct {
	At    int
	After bool
	// Of says which calls count; nil: all that change something.
	Of func(Call) bool
	// Child says that whoever makes the call is to die, and not the program.
	Child bool
}

// A Trace is what a program did.
type Trace struct {
	Calls  []Call             // in order
	Killed string             // where; empty: it ran to its end
	Status syscall.WaitStatus // its own, not its children's
	// Peak is the largest resident set that it had, in KiB; 0 if it was killed. What wait tells is no less than that of
	// the test which started it.
	Peak int
}

// A Call is one call: its name, such as rename, exec or RTM_NEWLINK, and what it is about: a file, the part of a netlink
// message that matters, a socket's domain as a number.
type Call struct {
	Name, Path string
	Child      bool // another process than the program made it
	Reads      bool // it changes nothing, and is here to be counted
}

func (c Call) String() string {
	s := strings.TrimSpace(c.Name + " " + c.Path)
	if c.Child {
		s += " by a child"
	}
	return s
}

// Run runs cmd by way of the program launcher and kills it as k says. It returns when it and all that it started have ended.
func Run(cmd *exec.Cmd, launcher string, k Kill) (*Trace, error) {
	cmd.Args = append([]string{launcher, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = launcher
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	// All of ptrace has to come from the thread that the child knows as its tracer.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the launcher: %w", err)
	}
	t := &tracer{pid: cmd.Process.Pid, kill: k, groups: map[int]int{}, leaving: map[int]string{}}
	err := t.loop()
	// It is reaped already; what is left to do is the copying of its output.
	if waited := cmd.Wait(); err == nil && waited != nil && !errors.Is(waited, syscall.ECHILD) {
		err = waited
	}
	return &t.Trace, err
}

type tracer struct {
	Trace
	pid     int
	kill    Kill
	passed  int            // calls that count so far
	started bool           // the program itself runs, no longer the launcher
	groups  map[int]int    // the process of each thread
	leaving map[int]string // threads that were sent to the end of the call to be killed after
}

func (t *tracer) loop() error {
	const options = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD
	var status syscall.WaitStatus
	if _, err := wait(t.pid, &status); err != nil {
		return fmt.Errorf("wait for the traced program: %w", err)
	}
	if err := unix.PtraceSetOptions(t.pid, options); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := unix.PtraceCont(t.pid, 0); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	for {
		tid, err := wait(-1, &status)
		if errors.Is(err, unix.ECHILD) {
			return nil // all are gone, children too
		}
		if err != nil {
			return fmt.Errorf("wait for the traced program: %w", err)
		}
		if status.Exited() || status.Signaled() {
			if tid == t.pid {
				t.Status = status
			}
			t.left(tid)
			continue
		}
		t.stopped(tid, status)
	}
}

// wait sees only what this thread traces: the test's other children are not its business.
func wait(pid int, status *syscall.WaitStatus) (int, error) {
	for {
		tid, err := syscall.Wait4(pid, status, unix.WALL|unix.WNOTHREAD, nil)
		if !errors.Is(err, unix.EINTR) {
			return tid, err
		}
	}
}

// stopped looks at one stop and lets the thread go on. Its errors are those of threads that died meanwhile: the next wait
// tells.
func (t *tracer) stopped(tid int, status syscall.WaitStatus) {
	signal := 0
	switch stop := status.StopSignal(); {
	case stop == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
		if t.arrived(tid) {
			_ = unix.PtraceSyscall(tid, 0)
			return
		}
	case stop == unix.SIGTRAP|0x80, // the end of a call that we asked for
		// A program has started, a child is there: one of these calls ends only much later, or elsewhere.
		stop == unix.SIGTRAP && status.TrapCause() > 0:
		t.left(tid)
	case stop == unix.SIGTRAP, stop == unix.SIGSTOP: // a new thread or child
	default:
		signal = int(stop)
	}
	_ = unix.PtraceCont(tid, signal)
}

// arrived sees a thread before a call. It reports whether the call's end is of interest.
func (t *tracer) arrived(tid int) bool {
	c, ok := t.call(tid)
	if !ok {
		return false
	}
	t.Calls = append(t.Calls, c)
	if c.Name == "exit" && !c.Child {
		t.Peak = status(t.pid, "VmHWM")
	}
	if c.Reads || t.kill.Of != nil && !t.kill.Of(c) {
		return false
	}
	if t.passed++; t.passed != t.kill.At {
		return false
	}
	if !t.kill.After {
		t.shoot(tid, "before "+c.String())
		return false
	}
	t.leaving[tid] = c.String()
	return true
}

// left sees a thread after a call.
func (t *tracer) left(tid int) {
	if call, ok := t.leaving[tid]; ok {
		delete(t.leaving, tid)
		t.shoot(tid, "after "+call)
	}
}

// shoot kills the program, or its child. A thread that was stopped before a call does not make it any more: the kernel
// looks for a deadly signal first.
func (t *tracer) shoot(tid int, where string) {
	victim := t.pid
	if t.kill.Child {
		victim = t.group(tid)
	}
	if unix.Kill(victim, unix.SIGKILL) == nil { // else it had just ended
		t.Killed = where
	}
}

// group is the process that a thread belongs to.
func (t *tracer) group(tid int) int {
	if pid, ok := t.groups[tid]; ok {
		return pid
	}
	t.groups[tid] = status(tid, "Tgid")
	return t.groups[tid]
}

// status is a number of /proc/<pid>/status; 0 if it ended meanwhile.
func status(pid int, key string) (n int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "\n"+key+":")
	_, _ = fmt.Sscan(rest, &n)
	return n
}
