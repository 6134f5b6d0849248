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

// The kernel drops events that the socket has no room for, and says so once; until the socket is empty it drops all others, too,
// and does not say so. The interfaces whose events fill it are in a network namespace of their own.
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
	addLinks := func(kind string, n int) {
		var links strings.Builder
		for i := range n {
			fmt.Fprintf(&links, "link add %s%d type veth peer name %speer%d\n", kind, i, kind, i)
		}
		ip := exec.CommandContext(t.Context(), "ip", "-batch", "-")
		ip.Stdin = strings.NewReader(links.String())
		if out, err := ip.CombinedOutput(); err != nil {
			t.Fatalf("make interfaces: %v\n%s", err, out)
		}
	}
	addLinks("early", 30)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	lost := 0
	err = receive(ctx, socket, func(c Change) {
		if !c.Lost {
			return
		}
		if lost++; lost == 2 {
			cancel() // it would be told of all that comes now
			return
		}
		addLinks("late", 1) // while the socket is still full
	})
	if err != nil || lost != 2 {
		t.Errorf("told %d times that events are lost, and %v; want twice", lost, err)
	}
}
