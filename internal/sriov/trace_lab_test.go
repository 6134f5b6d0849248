//go:build lab

package sriov_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tracer stops a plugin and all that it starts at each system call that changes something, counts those calls with one
// counter over all threads and children, and can kill the plugin just before or just after any of them. A seccomp filter
// chooses the calls in the kernel, so that the others run at full speed.

// beTraced makes this process stop at the filter's calls, and becomes the program in argv.
func beTraced(argv []string) error {
	runtime.LockOSThread()
	filter := seccompFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return unix.Exec(argv[0], argv, os.Environ())
}

func seccompFilter() []unix.SockFilter {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	const numberOffset = 0 // of struct seccomp_data
	const argumentsOffset = 16
	f := []unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, numberOffset)}
	for call := range calls {
		f = append(f,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: uint32(call)},
			stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_TRACE))
	}
	return append(f,
		// openat, if it may make or empty a file.
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 3, K: unix.SYS_OPENAT},
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, argumentsOffset+2*8),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: unix.O_CREAT | unix.O_TRUNC},
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_TRACE),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
}

// A trace is what a traced run did.
type trace struct {
	points []string // the changing calls, and some that read, in order
	killed string   // where it was killed; empty: it ran to its end
	status unix.WaitStatus
}

// A kill says where a traced run is to die.
type kill struct {
	at    int    // the number of the point, from 1; 0: never
	after bool   // after the call, not before it
	only  string // only points that say this count
	child bool   // the plugin's child is to die, not the plugin
}

// runTraced runs cmd, which must be an invocation's, and kills it.
func runTraced(cmd *exec.Cmd, k kill) (*trace, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd.Args = append([]string{self, "be-traced"}, cmd.Path)
	cmd.Path = self
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	// All of ptrace has to come from the thread that the child knows as its tracer.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &tracer{pid: cmd.Process.Pid, kill: k, groups: map[int]int{}, leaving: map[int]string{}}
	err = t.loop()
	// It was reaped above: this ends the copying of its output.
	if waitErr := cmd.Wait(); waitErr != nil && !errors.Is(waitErr, unix.ECHILD) {
		err = errors.Join(err, waitErr)
	}
	return &t.trace, err
}

type tracer struct {
	trace
	pid     int
	kill    kill
	passed  int            // changes so far
	started bool           // the plugin itself runs, no longer the launcher
	groups  map[int]int    // the process of each thread
	leaving map[int]string // threads that were sent to the end of the call to be killed after
}

func (t *tracer) loop() error {
	const options = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD
	var status unix.WaitStatus
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
				t.status = status
			}
			t.left(tid)
			continue
		}
		t.stopped(tid, status)
	}
}

func wait(pid int, status *unix.WaitStatus) (int, error) {
	for {
		tid, err := unix.Wait4(pid, status, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return tid, err
		}
	}
}

// stopped looks at one stop and lets the thread go on. Its errors are those of threads that died meanwhile: the next wait
// tells.
func (t *tracer) stopped(tid int, status unix.WaitStatus) {
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
	name := t.name(tid)
	if name == "" {
		return false
	}
	if t.group(tid) != t.pid {
		name = "child: " + name
	}
	t.points = append(t.points, name)
	if strings.Contains(name, "read ") || !strings.Contains(name, t.kill.only) {
		return false // of interest, but nothing changes
	}
	if t.passed++; t.passed != t.kill.at {
		return false
	}
	if !t.kill.after {
		t.shoot(tid, "before "+name)
		return false
	}
	t.leaving[tid] = name
	return true
}

// left sees a thread after a call.
func (t *tracer) left(tid int) {
	if name, ok := t.leaving[tid]; ok {
		delete(t.leaving, tid)
		t.shoot(tid, "after "+name)
	}
}

// shoot kills the plugin, not its child, or the other way round. A thread that was stopped before a call does not make it
// any more: the kernel looks for a deadly signal first.
func (t *tracer) shoot(tid int, where string) {
	victim := t.pid
	if t.kill.child {
		victim = t.group(tid)
	}
	if unix.Kill(victim, unix.SIGKILL) == nil { // else it had just ended
		t.killed = where
	}
}

// group is the process that a thread belongs to.
func (t *tracer) group(tid int) int {
	if pid, ok := t.groups[tid]; ok {
		return pid
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := strings.Cut(string(status), "\nTgid:")
	pid := tid
	_, _ = fmt.Sscan(rest, &pid)
	t.groups[tid] = pid
	return pid
}
