package pci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Change is one event of the kernel about a device.
type Change struct {
	// Action is what happened: add, remove, bind, unbind, change, move.
	Action    string
	Subsystem string // pci, net, infiniband, …
	// Address is the PCI function that the event is about, or that the device of the event sits on.
	Address Address
	// Lost says that the kernel dropped events: scan again. The other fields are empty then. It comes twice each time: when
	// the first is dropped, and when the last may have been.
	Lost bool
}

// Watch calls each with the kernel's events about PCI functions and what sits on them, until ctx ends (no error) or the
// socket breaks. ready is called once, when no later event can be missed: scan then. Events about interfaces come only for
// those in the calling thread's network namespace: an interface that moves out is a remove, one that comes back an add.
func Watch(ctx context.Context, ready func(), each func(Change)) error {
	fd, err := listen()
	if err != nil {
		return err
	}
	socket := os.NewFile(uintptr(fd), "the kernel's event socket")
	defer func() { _ = socket.Close() }()                         // nothing is lost: it was only read
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })() // which wakes a receive
	ready()
	return receive(ctx, socket, each)
}

// eventBuffer holds what the kernel says while a scan runs: 256 VFs made at once are some thousand events, and the default
// holds a few hundred.
const eventBuffer = 4 << 20

func listen() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("open the kernel's event socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd) // the error says it already
		}
	}()
	const kernelGroup = 1 // 2 is what udev sends on, in another format
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return -1, fmt.Errorf("listen to the kernel's events: %w", err)
	}
	// Beyond net.core.rmem_max only with CAP_NET_ADMIN. What is refused here shows as Lost later.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	}
	return fd, nil
}

func receive(ctx context.Context, socket *os.File, each func(Change)) error {
	conn, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive the kernel's events: %w", err)
	}
	buf := make([]byte, 64<<10)
	// The kernel says ENOBUFS for the first event that it drops, and drops all others, without a word, until the socket is empty.
	congested := false
	for ctx.Err() == nil {
		var n int
		var from unix.Sockaddr
		var failed error
		err := conn.Read(func(fd uintptr) (done bool) {
			n, from, failed = unix.Recvfrom(int(fd), buf, 0)
			return congested || !errors.Is(failed, unix.EAGAIN)
		})
		switch err = cmp.Or(err, failed); {
		case ctx.Err() != nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS), congested && errors.Is(err, unix.EAGAIN):
			congested = errors.Is(err, unix.ENOBUFS)
			each(Change{Lost: true})
		case err != nil:
			return fmt.Errorf("receive the kernel's events: %w", err)
		default:
			// Only the kernel has port 0: what another process sends here is not believed.
			if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 {
				if c, ok := parseUevent(buf[:n]); ok {
					each(c)
				}
			}
		}
	}
	return nil
}

// parseUevent reads "add@/devices/…\0ACTION=add\0DEVPATH=/devices/…\0SUBSYSTEM=net\0…".
func parseUevent(message []byte) (c Change, ok bool) {
	for field := range bytes.SplitSeq(message, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			c.Action = value
		case "SUBSYSTEM":
			c.Subsystem = value
		case "DEVPATH":
			c.Address, _, ok = splitPath(value)
		}
	}
	return c, ok && c.Action != ""
}

// splitPath finds the last PCI function in a device path such as
// /devices/pci0000:00/0000:00:02.0/0000:02:10.0/net/eth5, whose earlier ones are the bridges above it, and gives what comes
// after it.
func splitPath(devpath string) (a Address, below string, ok bool) {
	for end := len(devpath); ; {
		i := strings.LastIndexByte(devpath[:end], '/')
		if i < 0 {
			return Address{}, "", false
		}
		if a, err := ParseAddress(devpath[i+1 : end]); err == nil {
			return a, strings.TrimPrefix(devpath[end:], "/"), true
		}
		end = i
	}
}
