// Package process runs the daemons of the cluster: their output in a file, their end noticed, none left behind.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Group is a set of daemons that live and end together. The zero value is not usable; see New.
type Group struct {
	// Logs is the folder of the daemons' output: <name>.log.
	Logs string

	mu       sync.Mutex
	running  []*daemon
	died     chan error // holds the first death that nobody asked for
	stopping bool
}

type daemon struct {
	name string
	argv []string
	keep bool
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended for good
}

// restartDelay is systemd's order of magnitude for a node's daemons.
const restartDelay = time.Second

var errStopping = errors.New("the group is being stopped")

// New returns an empty group. It makes the folder logs.
func New(logs string) (*Group, error) {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for logs: %w", err)
	}
	return &Group{Logs: logs, died: make(chan error, 1)}, nil
}

// Start runs argv, found on PATH if it has no slash, as name. The daemon dies with the thread that calls Start: lock the
// calling goroutine to the main thread. It gets a process group of its own, so that an interrupt typed at a terminal
// reaches only us, who end the daemons in order.
func (g *Group) Start(name string, argv ...string) error {
	return g.start(&daemon{name: name, argv: argv})
}

// StartKept is Start for a daemon that is started again a second after it ends, as systemd does with the daemons of a
// node: a test may kill it. It never shows in Died.
func (g *Group) StartKept(name string, argv ...string) error {
	return g.start(&daemon{name: name, argv: argv, keep: true})
}

func (g *Group) start(d *daemon) error {
	if err := g.launch(d); err != nil {
		return err
	}
	go g.wait(d)
	return nil
}

// launch makes d's process, and holds g's lock so that Stop sees either none or one that it can end.
func (g *Group) launch(d *daemon) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		return errStopping
	}
	out, err := os.OpenFile(g.LogFile(d.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer out.Close()
	cmd := exec.Command(d.argv[0], d.argv[1:]...) //nolint:noctx // it outlives the call, and ends with the group
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	d.cmd = cmd
	if d.done == nil {
		d.done = make(chan struct{})
		g.running = append(g.running, d)
	}
	return nil
}

func (g *Group) wait(d *daemon) {
	defer close(d.done)
	for {
		err := d.cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		if d.keep {
			time.Sleep(restartDelay)
			if launchErr := g.launch(d); launchErr == nil {
				continue
			}
		}
		g.report(fmt.Errorf("%s ended by itself: %w; its last lines:\n%s", d.name, err, g.Tail(d.name, 30)))
		return
	}
}

// report tells of a death, unless it was asked for.
func (g *Group) report(death error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		return
	}
	select {
	case g.died <- death:
	default: // one is enough
	}
}

// Died yields an error when a daemon ends that was not stopped. It holds the daemon's last lines.
func (g *Group) Died() <-chan error { return g.died }

// LogFile is where the daemon called name writes.
func (g *Group) LogFile(name string) string { return filepath.Join(g.Logs, name+".log") }

// Tail is the last n lines of the output of the daemon called name.
func (g *Group) Tail(name string, n int) string { return Tail(g.LogFile(name), n) }

// longest is how much of a line, in bytes, a person reads: the kubelet says one thing in four forms.
const longest = 500

// Tail is the last n lines of the file path, indented and shortened; or why there are none.
func Tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		if len(line) > longest {
			lines[i] = line[:longest] + "…"
		}
	}
	return "  " + strings.Join(lines, "\n  ")
}

// Await calls ready until it returns nil, a daemon dies, ctx ends or limit has passed. what completes "waiting for …".
func (g *Group) Await(ctx context.Context, what string, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not there after %s", limit))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case death := <-g.died:
			return fmt.Errorf("wait for %s: %w", what, death)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Stop ends the daemons with SIGKILL, the last started first, and waits for each. What they keep in files is either
// thrown away or, on a persistent folder, meant to survive a kill.
func (g *Group) Stop() {
	g.mu.Lock()
	g.stopping = true
	running := slices.Clone(g.running)
	g.mu.Unlock()
	for _, d := range slices.Backward(running) {
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
		<-d.done
	}
}
