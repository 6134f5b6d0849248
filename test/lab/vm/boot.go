package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

const (
	// grace is how long a command may take to end after a signal.
	grace = 10 * time.Second
	// powerOff is how long the guest may take to end once it has told the exit status and all is on disk.
	powerOff = 2 * time.Second
)

// boot is one start of the machine.
type boot struct {
	*run
	console *console
	conn    *wire.Conn
	taken   chan struct{} // one token per piece of input that the guest took
	ready   chan struct{} // closed when the guest is about to start the command
	over    chan struct{} // closed when the guest has no more to say
	result  *result       // what it said last; nil when it went without a word. Read it after over.
}

// result is how the command ended, as the guest tells it.
type result struct {
	exit int
	err  error
}

// attempt boots and, if the guest gets that far, carries the command through.
func (b *boot) attempt(ctx context.Context) (int, error) {
	host, guest, err := socketPair()
	if err != nil {
		return 0, err
	}
	defer host.Close()
	b.conn = wire.NewConn(host)
	b.taken, b.ready, b.over = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	b.machine.portFD = 3                                                           // the first of cmd.ExtraFiles
	cmd := exec.Command(b.parts.tools.path[qemuName], qemuArgs(b.c, b.machine)...) //nolint:noctx // the guest is told to end first, see supervise
	cmd.ExtraFiles = []*os.File{guest}
	cmd.Stdout, cmd.Stderr = b.console, b.console
	died, err := startQEMU(cmd, b.c.NetNS)
	_ = guest.Close() // QEMU has its own copy
	if err != nil {
		return 0, fmt.Errorf("start QEMU: %w", err)
	}
	go b.listen()
	defer func() {
		_ = cmd.Process.Kill() // it has ended already, or has been given its time
		<-died
	}()
	if err := b.waitReady(ctx, died); err != nil {
		return 0, err
	}
	return b.supervise(ctx, died)
}

// startQEMU starts it in a process group of its own, so that the terminal's ^C does not reach it, and from a thread that
// lives until it ends, because "die with your parent" means the thread that forked. died is closed when it has ended.
func startQEMU(cmd *exec.Cmd, netns string) (died <-chan struct{}, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		// Never unlocked: the thread may be in another network namespace, and ends with this goroutine.
		runtime.LockOSThread()
		if err := enter(netns); err != nil {
			started <- err
			return
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how QEMU ended says less than what the guest told, or its console
		}
	}()
	return ended, <-started
}

func enter(netns string) error {
	if netns == "" {
		return nil
	}
	f, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace %s: %w", netns, err)
	}
	return nil
}

func socketPair() (host, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the guest's line to the host: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "guest"), os.NewFile(uintptr(fds[1]), "guest in QEMU"), nil
}

// waitReady waits until the guest is about to start the command.
func (b *boot) waitReady(ctx context.Context, died <-chan struct{}) error {
	limit := b.c.bootTimeout(loadPerCPU())
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	select {
	case <-b.ready:
		return nil
	case <-b.over:
		select {
		case <-b.ready:
			return nil // a command that was over at once
		default:
		}
		if b.result != nil && b.result.err != nil {
			return fmt.Errorf("%w: %w", ErrBoot, b.result.err)
		}
		awaitEnd(died) // so that the console is complete
		return fmt.Errorf("%w: the machine ended", ErrBoot)
	case <-deadline.C:
		return fmt.Errorf("%w within %s", ErrBoot, limit)
	case <-b.c.Signals:
		return errors.New("interrupted while the virtual machine booted")
	case <-ctx.Done():
		return fmt.Errorf("boot the virtual machine: %w", context.Cause(ctx))
	}
}

// supervise is with the command until it ends, or is ended.
func (b *boot) supervise(ctx context.Context, died <-chan struct{}) (int, error) {
	stop := b.feed()
	defer stop()
	var (
		cancelled = ctx.Done()
		out       <-chan time.Time // runs once the command was told to end
		interrupt error
	)
	for {
		select {
		case <-b.over:
			if b.result == nil {
				awaitEnd(died)
				return 0, errors.Join(b.died(), interrupt)
			}
			_ = b.conn.Send(wire.Bye, nil) // a guest that is gone already needs no goodbye
			awaitEnd(died)
			return b.result.exit, errors.Join(b.result.err, interrupt)
		case sig := <-b.c.Signals:
			b.signal(sig)
			if out == nil {
				out = time.After(grace)
			}
		case <-cancelled:
			cancelled = nil
			interrupt = fmt.Errorf("run the command: %w", context.Cause(ctx))
			b.signal(unix.SIGTERM)
			out = time.After(grace)
		case <-out:
			return 0, errors.Join(fmt.Errorf("%w: it did not end within %s of a signal", ErrDied, grace), interrupt)
		}
	}
}

// awaitEnd gives the machine the time to end by itself.
func awaitEnd(died <-chan struct{}) {
	select {
	case <-died:
	case <-time.After(powerOff):
	}
}

func (b *boot) signal(sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok {
		_ = b.conn.SendNumber(wire.Signal, int(s)) // when the guest is gone, listen says so
	}
}

// died tells a reboot that the command asked for from a machine that broke.
func (b *boot) died() error {
	text := b.console.tail()
	switch {
	case strings.Contains(text, "Kernel panic"):
		b.c.Log("the guest's kernel panicked; its console:\n%s", text)
		return fmt.Errorf("%w: kernel panic", ErrDied)
	case strings.Contains(text, "reboot: Restarting system"), strings.Contains(text, "reboot: Power down"):
		// Else a test that brings its machine down would pass.
		return fmt.Errorf("%w: it was rebooted or switched off", ErrDied)
	}
	b.c.Log("the machine ended without a word; its console:\n%s", text)
	return ErrDied
}

// listen receives what the guest sends. Output is written here, so a reader that is slow slows the command.
func (b *boot) listen() {
	defer close(b.over)
	for {
		kind, payload, err := b.conn.Receive()
		if err != nil {
			return // the machine is gone; who waits for the result sees that there is none
		}
		switch kind {
		case wire.Ready:
			close(b.ready)
		case wire.Stdout:
			_, err = b.c.Stdout.Write(payload)
		case wire.Stderr:
			_, err = b.c.Stderr.Write(payload)
		case wire.InputTaken:
			b.taken <- struct{}{}
		case wire.Exit:
			exit, malformed := wire.Number(payload)
			b.result = &result{exit, malformed}
			return
		case wire.Failed:
			b.result = &result{err: fmt.Errorf("%w: %s", ErrCommand, payload)}
			return
		}
		if err != nil {
			b.result = &result{err: fmt.Errorf("write the command's output: %w", err)}
			return
		}
	}
}

// feed carries the input, one piece at a time, each after the guest took the one before.
func (b *boot) feed() (stop func()) {
	in := b.c.Stdin
	if in == nil {
		in = strings.NewReader("")
	}
	stopped := make(chan struct{})
	go func() {
		buf := make([]byte, wire.MaxPayload)
		for {
			n, err := in.Read(buf)
			if n > 0 && b.conn.Send(wire.Stdin, buf[:n]) != nil {
				return
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					b.c.Log("reading the command's input: %v", err)
				}
				_ = b.conn.Send(wire.Stdin, nil) // its end; a guest that is gone needs none
				return
			}
			select {
			case <-b.taken:
			case <-stopped:
				return
			}
		}
	}()
	stopTTY := b.tty.start(b.conn)
	return func() {
		close(stopped)
		stopTTY()
	}
}

// loadPerCPU is the one-minute load average per CPU, 0 when it cannot be read.
func loadPerCPU() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load / float64(runtime.NumCPU())
}
