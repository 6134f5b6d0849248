//go:build lab

package sriov_test

import (
	"encoding/binary"
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

// traced are the calls to stop at; seen looks closer at each.
var traced = []uint32{
	unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_WRITE, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINK,
	unix.SYS_UNLINKAT, unix.SYS_MKDIR, unix.SYS_MKDIRAT, unix.SYS_SYMLINK, unix.SYS_SYMLINKAT, unix.SYS_LINK, unix.SYS_LINKAT,
	unix.SYS_TRUNCATE, unix.SYS_FTRUNCATE, unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_FSYNC, unix.SYS_IOCTL, unix.SYS_OPENAT,
}

func seccompFilter() []unix.SockFilter {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	const numberOffset = 0 // of struct seccomp_data
	const flagsOffset = 16 + 2*8
	f := []unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, numberOffset)}
	for _, call := range traced {
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

// A trace is what a traced run did.
type trace struct {
	points []string // the changing calls, and some that read, in order
	killed string   // where it was killed; empty: it ran to its end
	status unix.WaitStatus
}

// runTraced runs cmd, which must be an invocation's, and kills it at its point number kill (counted from 1; 0: never),
// after the call or before it.
func runTraced(cmd *exec.Cmd, kill int, after bool) (*trace, error) {
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
	defer func() { _ = cmd.Process.Release() }()
	t := &tracer{pid: cmd.Process.Pid, kill: kill, after: after, exiting: map[int]string{}}
	return &t.trace, t.loop()
}

type tracer struct {
	trace
	pid     int
	kill    int // the number of the change to be killed at
	changes int
	after   bool
	started bool           // the plugin itself runs, no longer the launcher
	exiting map[int]string // threads that were sent to the end of the call to be killed after
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
	case stop == unix.SIGTRAP|0x80, status.TrapCause() == unix.PTRACE_EVENT_EXEC: // the end of a call that we asked for
		if name, ok := t.exiting[tid]; ok {
			delete(t.exiting, tid)
			t.shoot("after " + name)
		}
	case stop == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
		name := t.name(tid)
		if name == "" {
			break
		}
		t.points = append(t.points, name)
		if strings.HasPrefix(name, "read ") {
			break // of interest, but nothing changes
		}
		if t.changes++; t.changes != t.kill {
			break
		}
		if !t.after {
			t.shoot("before " + name)
			break
		}
		t.exiting[tid] = name
		_ = unix.PtraceSyscall(tid, 0)
		return
	case stop == unix.SIGTRAP, stop == unix.SIGSTOP: // exec, a new thread or child
	default:
		signal = int(stop)
	}
	_ = unix.PtraceCont(tid, signal)
}

// shoot kills the plugin, not its child. A thread that was stopped before a call does not make it any more: the kernel looks
// for a deadly signal first.
func (t *tracer) shoot(where string) {
	t.killed = where
	_ = unix.Kill(t.pid, unix.SIGKILL)
}

// name says what a call changes; empty: nothing that matters.
func (t *tracer) name(tid int) string {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) != nil {
		return ""
	}
	if !t.started {
		t.started = r.Orig_rax == unix.SYS_EXECVE // the launcher's last
		return ""
	}
	path := func(address uint64) string { return t.text(tid, address) }
	switch r.Orig_rax {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG:
		return t.netlink(tid, r.Orig_rax, r.Rsi)
	case unix.SYS_WRITE:
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, r.Rdi))
		if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
			return "" // a pipe, an eventfd, a terminal
		}
		return "write to " + target
	case unix.SYS_IOCTL:
		if r.Rsi != unix.SIOCETHTOOL {
			return ""
		}
		return t.ethtool(tid, r.Rdx)
	case unix.SYS_OPENAT:
		if p := path(r.Rsi); !strings.HasPrefix(p, "/dev/") && !strings.HasPrefix(p, "/sys/") {
			return "make or empty " + p
		}
		return ""
	case unix.SYS_FSYNC:
		return "fsync"
	case unix.SYS_EXECVE:
		return "exec " + path(r.Rdi)
	case unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_MKDIR, unix.SYS_SYMLINK:
		return fmt.Sprintf("call %d of %s", r.Orig_rax, path(r.Rdi))
	}
	return fmt.Sprintf("call %d of %s", r.Orig_rax, path(r.Rsi))
}

var netlinkNames = map[uint16]string{
	unix.RTM_NEWLINK: "RTM_NEWLINK", unix.RTM_SETLINK: "RTM_SETLINK", unix.RTM_DELLINK: "RTM_DELLINK", unix.RTM_NEWADDR: "RTM_NEWADDR",
	unix.RTM_DELADDR: "RTM_DELADDR", unix.RTM_NEWROUTE: "RTM_NEWROUTE", unix.RTM_DELROUTE: "RTM_DELROUTE",
	unix.RTM_NEWLINKPROP: "RTM_NEWLINKPROP", unix.RTM_DELLINKPROP: "RTM_DELLINKPROP",
}

// netlink reads the message that is sent. An RTM_GETLINK is told, too, with whether it asks for the VFs: it is counted.
func (t *tracer) netlink(tid int, call, address uint64) string {
	if call == unix.SYS_SENDMSG {
		return "sendmsg"
	}
	b := make([]byte, 64)
	n, _ := unix.PtracePeekData(tid, uintptr(address), b)
	if n < 16 {
		return ""
	}
	length, kind := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint16(b[4:])
	if length > 4096 {
		return "" // no netlink: a frame
	}
	if kind == unix.RTM_GETLINK {
		// After the two headers: one attribute, IFLA_EXT_MASK.
		if n > 36 && binary.NativeEndian.Uint16(b[34:]) == unix.IFLA_EXT_MASK {
			return "read the PF"
		}
		return ""
	}
	name := netlinkNames[kind]
	if name == "" {
		return ""
	}
	whole := make([]byte, length)
	m, _ := unix.PtracePeekData(tid, uintptr(address), whole)
	return name + attributes(whole[:m])
}

// attributes names those of a link message that matter here.
func attributes(message []byte) string {
	var names []string
	for b := message[min(32, len(message)):]; len(b) >= 4; {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&0x3fff
		if length < 4 || length > len(b) {
			break
		}
		switch kind {
		case unix.IFLA_VFINFO_LIST:
			names = append(names, "VF settings")
		case unix.IFLA_NET_NS_FD:
			names = append(names, "move")
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// ethtool follows a struct ifreq to the command.
func (t *tracer) ethtool(tid int, request uint64) string {
	pointer, command := make([]byte, 8), make([]byte, 4)
	_, err1 := unix.PtracePeekData(tid, uintptr(request+unix.IFNAMSIZ), pointer)
	_, err2 := unix.PtracePeekData(tid, uintptr(binary.NativeEndian.Uint64(pointer)), command)
	if err1 != nil || err2 != nil {
		return "ethtool"
	}
	switch c := binary.NativeEndian.Uint32(command); c {
	case unix.ETHTOOL_SRINGPARAM, unix.ETHTOOL_SCHANNELS, unix.ETHTOOL_SFEATURES:
		return fmt.Sprintf("ethtool command %#x", c)
	default:
		return fmt.Sprintf("read by ethtool command %#x", c)
	}
}

// text reads a string of the traced process.
func (t *tracer) text(tid int, address uint64) string {
	b := make([]byte, 256)
	n, _ := unix.PtracePeekData(tid, uintptr(address), b)
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return s
}
