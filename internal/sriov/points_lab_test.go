//go:build lab

package sriov_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// calls are those that the tracer stops at, and how a point with a path is called; name looks closer at the rest. openat is
// the filter's own.
var calls = map[uint64]string{
	unix.SYS_SENDTO: "", unix.SYS_SENDMSG: "", unix.SYS_IOCTL: "",
	unix.SYS_WRITE: "", unix.SYS_WRITEV: "", unix.SYS_PWRITE64: "", unix.SYS_PWRITEV: "", unix.SYS_FTRUNCATE: "", unix.SYS_FALLOCATE: "",
	unix.SYS_FSYNC: "", unix.SYS_FDATASYNC: "",
	unix.SYS_CLONE: "", unix.SYS_CLONE3: "", unix.SYS_FORK: "", unix.SYS_VFORK: "", unix.SYS_EXIT_GROUP: "",
	unix.SYS_OPEN: "open", unix.SYS_CREAT: "make", unix.SYS_TRUNCATE: "truncate",
	unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename",
	unix.SYS_UNLINK: "remove", unix.SYS_UNLINKAT: "remove", unix.SYS_RMDIR: "remove",
	unix.SYS_MKDIR: "make folder", unix.SYS_MKDIRAT: "make folder", unix.SYS_MKNOD: "make node", unix.SYS_MKNODAT: "make node",
	unix.SYS_SYMLINK: "link", unix.SYS_SYMLINKAT: "link", unix.SYS_LINK: "link", unix.SYS_LINKAT: "link",
	unix.SYS_CHMOD: "chmod", unix.SYS_FCHMODAT: "chmod", unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "unmount",
	unix.SYS_EXECVE: "exec", unix.SYS_EXECVEAT: "exec",
}

// pathAt are the calls whose path comes after a folder's file descriptor.
var pathAt = map[uint64]bool{
	unix.SYS_RENAMEAT: true, unix.SYS_RENAMEAT2: true, unix.SYS_UNLINKAT: true, unix.SYS_MKDIRAT: true, unix.SYS_MKNODAT: true,
	unix.SYS_LINKAT: true, unix.SYS_FCHMODAT: true, unix.SYS_EXECVEAT: true,
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
	switch r.Orig_rax {
	case unix.SYS_SENDTO:
		return t.netlink(tid, r.Rsi)
	case unix.SYS_SENDMSG:
		return "sendmsg"
	case unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
		return write(tid, int(r.Rdi))
	case unix.SYS_IOCTL:
		if r.Rsi != unix.SIOCETHTOOL {
			return ""
		}
		return t.ethtool(tid, r.Rdx)
	case unix.SYS_OPENAT:
		if p := t.text(tid, r.Rsi); !strings.HasPrefix(p, "/dev/") && !strings.HasPrefix(p, "/sys/") {
			return "make or empty " + p
		}
		return ""
	case unix.SYS_OPEN:
		if r.Rsi&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			return ""
		}
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		return "fsync"
	case unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_FORK, unix.SYS_VFORK:
		return t.fork(tid, r)
	case unix.SYS_EXIT_GROUP:
		return "exit"
	}
	path := r.Rdi
	if pathAt[r.Orig_rax] {
		path = r.Rsi
	}
	return calls[r.Orig_rax] + " " + t.text(tid, path)
}

// write names a write to a file, or of the result; not those to pipes, eventfds, terminals.
func write(tid, fd int) string {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, fd))
	switch {
	case fd == 1:
		return "write the result"
	case err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/"):
		return ""
	}
	return "write to " + target
}

// fork tells a child from a thread.
func (t *tracer) fork(tid int, r unix.PtraceRegs) string {
	flags := r.Rdi
	switch r.Orig_rax {
	case unix.SYS_FORK, unix.SYS_VFORK:
		return "fork"
	case unix.SYS_CLONE3: // the first member of a struct clone_args
		b := make([]byte, 8)
		_, _ = unix.PtracePeekData(tid, uintptr(r.Rdi), b)
		flags = binary.NativeEndian.Uint64(b)
	}
	if flags&unix.CLONE_THREAD != 0 {
		return ""
	}
	return "fork"
}

var netlinkNames = map[uint16]string{
	unix.RTM_NEWLINK: "RTM_NEWLINK", unix.RTM_SETLINK: "RTM_SETLINK", unix.RTM_DELLINK: "RTM_DELLINK", unix.RTM_NEWADDR: "RTM_NEWADDR",
	unix.RTM_DELADDR: "RTM_DELADDR", unix.RTM_NEWROUTE: "RTM_NEWROUTE", unix.RTM_DELROUTE: "RTM_DELROUTE",
	unix.RTM_NEWLINKPROP: "RTM_NEWLINKPROP", unix.RTM_DELLINKPROP: "RTM_DELLINKPROP",
}

// netlink reads the message that is sent. An RTM_GETLINK is told, too, with whether it asks for the VFs: it is counted.
func (t *tracer) netlink(tid int, address uint64) string {
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
