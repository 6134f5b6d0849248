package pci

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel drops events that the socket has no room for, and says so once. The interfaces whose events fill it are in a
// network namespace of their own.
func TestLostEvents(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (the test needs to be root): %v", err)
	}
	fd, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "events")
	defer func() { _ = socket.Close() }()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the kernel makes a few kilobytes of it
		t.Fatal(err)
	}
	var links strings.Builder
	for i := range 30 {
		fmt.Fprintf(&links, "link add a%d type veth peer name b%d\n", i, i)
	}
	ip := exec.CommandContext(t.Context(), "ip", "-batch", "-")
	ip.Stdin = strings.NewReader(links.String())
	if out, err := ip.CombinedOutput(); err != nil {
		t.Fatalf("make interfaces: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lost := 0
	err = receive(ctx, socket, func(c Change) {
		if c.Lost {
			lost++
			cancel()
		}
	})
	if err != nil || lost != 1 {
		t.Errorf("told %d times that events are lost, and %v", lost, err)
	}
}
