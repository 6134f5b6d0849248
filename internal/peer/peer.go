// Package peer tells who is at the other end of a unix socket. The sockets between the programs on a node are root's alone by
// their modes; this holds where somebody loosened those, or put a socket of their own in the place.
package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRoot means that the peer is neither root nor the user that this process runs as.
var ErrNotRoot = errors.New("the peer is not root")

// Check asks the kernel who was at the other end when the connection was made: who connected, or who listened. The error
// wraps ErrNotRoot.
func Check(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	var (
		cred  *unix.Ucred
		inner error
	)
	if err := raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	if inner != nil {
		return fmt.Errorf("look at the peer: %w", inner)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it is user %d, process %d", ErrNotRoot, cred.Uid, cred.Pid)
	}
	return nil
}

// A Listener accepts only peers that Check lets through. Others are hung up on, and logged.
type Listener struct {
	*net.UnixListener
	Log *slog.Logger
}

// Accept waits for the next peer that may connect.
func (l Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := Check(conn); err != nil {
			_ = conn.Close() // nothing was said
			l.Log.Warn("hung up on a peer", "socket", l.Addr(), "reason", err)
			continue
		}
		return conn, nil
	}
}
