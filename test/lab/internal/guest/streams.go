package guest

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// streams are the command's standard files: pipes, or one terminal for all three.
type streams struct {
	stdin   io.WriteCloser
	outputs map[wire.Kind]*os.File // our ends
	files   [3]*os.File            // the command's ends
	pty     *os.File
}

func (s *session) open(job wire.Job) (*streams, error) {
	if job.TTY {
		return openTerminal(job.Rows, job.Cols)
	}
	return openPipes(job.OneOutput)
}

func openPipes(one bool) (*streams, error) {
	st := &streams{outputs: map[wire.Kind]*os.File{}}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the command's input: %w", err)
	}
	st.stdin, st.files[0] = stdin, in
	if st.outputs[wire.Stdout], st.files[1], err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("open the command's output: %w", err)
	}
	if one {
		st.files[2] = st.files[1]
		return st, nil
	}
	if st.outputs[wire.Stderr], st.files[2], err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("open the command's output: %w", err)
	}
	return st, nil
}

func openTerminal(rows, cols uint16) (*streams, error) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("name the terminal: %w", err)
	}
	if rows > 0 && cols > 0 {
		if err := unix.IoctlSetWinsize(int(pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			return nil, fmt.Errorf("size the terminal: %w", err)
		}
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	return &streams{
		stdin: endOfInput{pty}, outputs: map[wire.Kind]*os.File{wire.Stdout: pty},
		files: [3]*os.File{tty, tty, tty}, pty: pty,
	}, nil
}

// endOfInput keeps the terminal open when input ends: closing it would hang up on the command. It types ^D instead.
type endOfInput struct{ *os.File }

func (e endOfInput) Close() error {
	_, err := e.Write([]byte{4})
	return err
}

func (st *streams) child() []uintptr {
	return []uintptr{st.files[0].Fd(), st.files[1].Fd(), st.files[2].Fd()}
}

// closeChildSide leaves the command as the only holder of its ends, so that its death ends our reads.
func (st *streams) closeChildSide() {
	for _, f := range st.files {
		_ = f.Close() // the same file may be here twice
	}
}

// drain carries the output to the host until all who held it are gone. A terminal ends with EIO.
func (st *streams) drain(conn *wire.Conn) {
	var wg sync.WaitGroup
	for kind, f := range st.outputs {
		wg.Go(func() { _, _ = io.CopyBuffer(conn.Writer(kind), onlyReader{f}, make([]byte, wire.MaxPayload)) })
	}
	wg.Wait()
}

// onlyReader hides WriterTo, so that the copy uses our buffer and with it frames of a bounded size.
type onlyReader struct{ io.Reader }
