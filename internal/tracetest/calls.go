//go:build amd64

package tracetest

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// names are the calls to stop at. call looks closer at some.
var names = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_WRITEV: "write", unix.SYS_PWRITE64: "write", unix.SYS_PWRITEV: "write",
	unix.SYS_FTRUNCATE: "truncate", unix.SYS_FALLOCATE: "write", unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fsync",
	unix.SYS_OPENAT: "create", unix.SYS_OPEN: "create", unix.SYS_CREAT: "create", unix.SYS_TRUNCATE: "truncate",
	unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename",
	unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlink", unix.SYS_RMDIR: "unlink",
	unix.SYS_MKDIR: "mkdir", unix.SYS_MKDIRAT: "mkdir", unix.SYS_MKNOD: "mknod", unix.SYS_MKNODAT: "mknod",
	unix.SYS_SYMLINK: "symlink", unix.SYS_SYMLINKAT: "symlink", unix.SYS_LINK: "link", unix.SYS_LINKAT: "link",
	unix.SYS_CHMOD: "chmod", unix.SYS_FCHMODAT: "chmod", unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "unmount",
	unix.SYS_EXECVE: "exec", unix.SYS_EXECVEAT: "exec",
	unix.SYS_CLONE: "fork", unix.SYS_CLONE3: "fork", unix.SYS_FORK: "fork", unix.SYS_VFORK: "fork", unix.SYS_EXIT_GROUP: "exit",
	unix.SYS_SOCKET: "socket", unix.SYS_SENDTO: "send", unix.SYS_SENDMSG: "send", unix.SYS_IOCTL: "ethtool",
}

// pathAt are the calls whose path comes after a folder's file descriptor.
var pathAt = map[uint64]bool{
	unix.SYS_OPENAT: true, unix.SYS_RENAMEAT: true, unix.SYS_RENAMEAT2: true, unix.SYS_UNLINKAT: true, unix.SYS_MKDIRAT: true,
	unix.SYS_MKNODAT: true, unix.SYS_LINKAT: true, unix.SYS_FCHMODAT: true, unix.SYS_EXECVEAT: true,
}

// call tells what a call does; false: nothing that matters.
func (t *tracer) call(tid int) (c Call, ok bool) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &r) != nil {
		return c, false
	}
	if !t.started {
		t.started = r.Orig_rax == unix.SYS_EXECVE // the launcher's last
		return c, false
	}
	c = Call{Name: names[r.Orig_rax], Child: t.group(tid) != t.pid}
	switch r.Orig_rax {
	case unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		if c.Path = written(tid, int(r.Rdi)); c.Path == aPipe {
			c.Reads = true
		}
		return c, c.Path != ""
	case unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_FORK, unix.SYS_VFORK:
		return c, forks(tid, r)
	case unix.SYS_EXIT_GROUP, unix.SYS_SENDMSG:
		return c, true
	case unix.SYS_SOCKET:
		c.Path, c.Reads = strconv.FormatUint(r.Rdi, 10), true
		return c, true
	case unix.SYS_SENDTO:
		return netlink(c, tid, r.Rsi)
	case unix.SYS_IOCTL:
		if r.Rsi != unix.SIOCETHTOOL {
			return c, false
		}
		return ethtool(c, tid, r.Rdx), true
	case unix.SYS_OPEN:
		if r.Rsi&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			return c, false
		}
	}
	path := r.Rdi
	if pathAt[r.Orig_rax] {
		path = r.Rsi
	}
	c.Path = text(tid, path)
	if c.Name == "create" && strings.HasPrefix(c.Path, "/sys/") {
		return c, false // it is the write to it that changes something
	}
	return c, !strings.HasPrefix(c.Path, "/dev/")
}

// aPipe is what a program writes to that feeds another.
const aPipe = "a pipe"

// written names the file that a descriptor leads to; empty: a pipe, a socket, a terminal, but for the one of the result.
func written(tid, fd int) string {
	if fd == 1 {
		return "the result"
	}
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, fd))
	if strings.HasPrefix(target, "pipe:") && fd > 2 {
		return aPipe
	}
	if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
		return ""
	}
	return target
}

// forks tells a child from a thread.
func forks(tid int, r unix.PtraceRegs) bool {
	flags := r.Rdi
	switch r.Orig_rax {
	case unix.SYS_FORK, unix.SYS_VFORK:
		return true
	case unix.SYS_CLONE3: // the first member of a struct clone_args
		flags = binary.NativeEndian.Uint64(peek(tid, r.Rdi, 8))
	}
	return flags&unix.CLONE_THREAD == 0
}

var netlinkNames = map[uint16]string{
	unix.RTM_NEWLINK: "RTM_NEWLINK", unix.RTM_SETLINK: "RTM_SETLINK", unix.RTM_DELLINK: "RTM_DELLINK", unix.RTM_NEWADDR: "RTM_NEWADDR",
	unix.RTM_DELADDR: "RTM_DELADDR", unix.RTM_NEWROUTE: "RTM_NEWROUTE", unix.RTM_DELROUTE: "RTM_DELROUTE",
	unix.RTM_NEWLINKPROP: "RTM_NEWLINKPROP", unix.RTM_DELLINKPROP: "RTM_DELLINKPROP",
}

// netlink reads the message that is sent. An RTM_GETLINK that asks for a PF's VFs is told, too.
func netlink(c Call, tid int, address uint64) (Call, bool) {
	b := peek(tid, address, 64)
	length, kind := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint16(b[4:])
	if length < unix.SizeofNlMsghdr || length > 4096 {
		return c, false // no netlink: a frame, or a stream
	}
	if kind == unix.RTM_GETLINK {
		// After the two headers: one attribute, IFLA_EXT_MASK.
		c.Name, c.Path, c.Reads = "read", "the PF", true
		return c, binary.NativeEndian.Uint16(b[34:]) == unix.IFLA_EXT_MASK
	}
	if c.Name = netlinkNames[kind]; c.Name == "" {
		return c, false
	}
	c.Path = attributes(peek(tid, address, int(length)))
	return c, true
}

// attributes names those of a link message that matter.
func attributes(message []byte) string {
	var found []string
	for b := message[min(32, len(message)):]; len(b) >= 4; {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&0x3fff
		if length < 4 || length > len(b) {
			break
		}
		switch kind {
		case unix.IFLA_VFINFO_LIST:
			found = append(found, "VF settings")
		case unix.IFLA_NET_NS_FD:
			found = append(found, "move")
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	if len(found) == 0 {
		return ""
	}
	return "(" + strings.Join(found, ", ") + ")"
}

// ethtool follows a struct ifreq to the command.
func ethtool(c Call, tid int, request uint64) Call {
	pointer := binary.NativeEndian.Uint64(peek(tid, request+unix.IFNAMSIZ, 8))
	command := binary.NativeEndian.Uint32(peek(tid, pointer, 4))
	c.Path = fmt.Sprintf("%#x", command)
	switch command {
	case unix.ETHTOOL_SRINGPARAM, unix.ETHTOOL_SCHANNELS, unix.ETHTOOL_SFEATURES:
	default:
		c.Reads = true
	}
	return c
}

// text reads a string of the traced process.
func text(tid int, address uint64) string {
	s, _, _ := strings.Cut(string(peek(tid, address, 256)), "\x00")
	return s
}

// peek reads the traced process's memory; what is not there is zero.
func peek(tid int, address uint64, n int) []byte {
	b := make([]byte, n)
	to := unix.Iovec{Base: &b[0]}
	to.SetLen(n)
	// One call, where ptrace takes one for each eight bytes.
	_, _ = unix.ProcessVMReadv(tid, []unix.Iovec{to}, []unix.RemoteIovec{{Base: uintptr(address), Len: n}}, 0)
	return b
}
