package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// terminal is the host's, in raw mode while the command runs: the guest's terminal does what a terminal does.
type terminal struct{ fd int }

func openTerminal(stdin io.Reader) (*terminal, error) {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil, errors.New("give the command a terminal: the input is not a file")
	}
	fd := int(f.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return nil, fmt.Errorf("give the command a terminal: %s is none: %w", f.Name(), err)
	}
	return &terminal{fd}, nil
}

// IsTerminal says whether f is one.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (t *terminal) size() (rows, cols uint16) {
	ws, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return ws.Row, ws.Col
}

// start makes the terminal raw and tells the guest of changes of its size, until stop. t may be nil.
func (t *terminal) start(conn *wire.Conn) (stop func()) {
	if t == nil {
		return func() {}
	}
	old, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	raw := *old // as cfmakeraw(3)
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(t.fd, unix.TCSETS, &raw) // a terminal that stays cooked is usable still
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	go func() {
		for range changes {
			rows, cols := t.size()
			_ = conn.Send(wire.Resize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, rows), cols))
		}
	}()
	return func() {
		signal.Stop(changes)
		close(changes)
		_ = unix.IoctlSetTermios(t.fd, unix.TCSETS, old)
	}
}
