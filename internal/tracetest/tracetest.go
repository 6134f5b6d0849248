//go:build amd64

// Package tracetest kills programs at exact points, for tests: it stops a program and all that it starts at each system
// call that changes a file, starts a program or opens a socket, counts those calls with one counter over all threads and children, and can
// kill the program just before or just after any of them. Which calls there are is not listed anywhere but found on the
// way. A seccomp filter chooses them in the kernel, so that all others run at full speed.
//
// It needs root, and a launcher: a program whose main calls Launch.
package tracetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Kill says where to kill the program: at its call number At, counted from 1 (0: nowhere), before it or after it.
type Kill struct {
	At    int
	After bool
}

// A Trace is what a program did.
type Trace struct {
	Calls  []Call             // in order
	Killed string             // where; empty: it ran to its end
	Status syscall.WaitStatus // its own, not its children's
}

// A Call is one call that changes something: its name, such as rename or exec, and the file that it is about, or a socket's
// domain as a number.
type Call struct {
	Name, Path string
	Child      bool // another process than the program made it
}

func (c Call) String() string { return c.Name + " " + c.Path }

// Launch makes this process stop at the filter's calls, and becomes the program that its arguments name.
func Launch() error {
	if len(os.Args) < 2 {
		return errors.New("no program to launch")
	}
	runtime.LockOSThread()
	filter := seccompFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("set the seccomp filter: %w", errno)
	}
	if err := unix.Exec(os.Args[1], os.Args[1:], os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", os.Args[1], err)
	}
	return nil
}

// Run runs cmd by way of the program launcher and kills it as k says, it alone and not its children. It returns when all
// of them have ended.
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
	t := &tracer{pid: cmd.Process.Pid, kill: k, exiting: map[int]string{}}
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
	started bool           // the program itself runs, no longer the launcher
	exiting map[int]string // threads that were sent to the end of the call to be killed after
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
	case stop == unix.SIGTRAP|0x80, stop == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_EXEC:
		if call, ok := t.exiting[tid]; ok { // the end of a call that we asked for
			delete(t.exiting, tid)
			t.shoot("after " + call)
		}
	case stop == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
		c, ok := t.call(tid)
		if !ok {
			break
		}
		t.Calls = append(t.Calls, c)
		if len(t.Calls) != t.kill.At {
			break
		}
		if !t.kill.After {
			t.shoot("before " + c.String())
			break
		}
		t.exiting[tid] = c.String()
		_ = unix.PtraceSyscall(tid, 0)
		return
	case stop == unix.SIGTRAP, stop == unix.SIGSTOP: // a new thread or child
	default:
		signal = int(stop)
	}
	_ = unix.PtraceCont(tid, signal)
}

// shoot kills the program. A thread that was stopped before a call does not make it any more: the kernel looks for a deadly
// signal first.
func (t *tracer) shoot(where string) {
	t.Killed = where
	_ = unix.Kill(t.pid, unix.SIGKILL)
}

// call tells what a call changes; false: nothing that matters.
func (t *tracer) call(tid int) (Call, bool) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) != nil {
		return Call{}, false
	}
	if !t.started {
		t.started = r.Orig_rax == unix.SYS_EXECVE // the launcher's last
		return Call{}, false
	}
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", t.pid, tid))
	c := Call{Name: names[uint32(r.Orig_rax)], Child: err != nil}
	switch r.Orig_rax {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE:
		c.Path, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, r.Rdi))
		// Else a pipe, a socket, a terminal.
		return c, err == nil && strings.HasPrefix(c.Path, "/") && !strings.HasPrefix(c.Path, "/dev/")
	case unix.SYS_EXECVE, unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_MKDIR, unix.SYS_TRUNCATE, unix.SYS_SYMLINK, unix.SYS_LINK:
		c.Path = text(tid, r.Rdi)
	case unix.SYS_SOCKET:
		c.Path = strconv.FormatUint(r.Rdi, 10)
	default:
		c.Path = text(tid, r.Rsi)
	}
	return c, !strings.HasPrefix(c.Path, "/dev/")
}

// text reads a string of the traced process.
func text(tid int, address uint64) string {
	b := make([]byte, 256)
	n, _ := unix.PtracePeekData(tid, uintptr(address), b)
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return s
}

// names are the calls to stop at.
var names = map[uint32]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "write", unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fsync",
	unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename",
	unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlink", unix.SYS_MKDIR: "mkdir", unix.SYS_MKDIRAT: "mkdir",
	unix.SYS_SYMLINK: "symlink", unix.SYS_SYMLINKAT: "symlink", unix.SYS_LINK: "link", unix.SYS_LINKAT: "link",
	unix.SYS_TRUNCATE: "truncate", unix.SYS_FTRUNCATE: "truncate", unix.SYS_EXECVE: "exec", unix.SYS_EXECVEAT: "exec",
	unix.SYS_OPENAT: "create", unix.SYS_SOCKET: "socket",
}

func seccompFilter() []unix.SockFilter {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	const numberOffset, flagsOffset = 0, 16 + 2*8 // of struct seccomp_data: the call's number, its third argument
	f := []unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, numberOffset)}
	for call := range names {
		if call == unix.SYS_OPENAT {
			continue
		}
		f = append(f,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: call},
			stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_TRACE))
	}
	return append(f,
		// openat, if it may make or empty a file.
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 3, K: unix.SYS_OPENAT},
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, flagsOffset),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: unix.O_CREAT | unix.O_TRUNC},
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_TRACE),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
}
