//go:build amd64

package tracetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

func seccompFilter() []unix.SockFilter {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	const numberOffset, flagsOffset = 0, 16 + 2*8 // of struct seccomp_data: the call's number, its third argument
	f := []unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, numberOffset)}
	for call := range names {
		if call == unix.SYS_OPENAT {
			continue
		}
		f = append(f,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: uint32(call)},
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
