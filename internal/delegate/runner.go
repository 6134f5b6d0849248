package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
)

// DefaultLockWait bounds the wait for another call on the same container. Longer than DefaultTimeout: a hanging plugin is
// killed first, and its undo follows.
const DefaultLockWait = 90 * time.Second

// A Runner runs CNI plugins on this node and keeps the records. Its methods may be called concurrently, from any number
// of processes: each container has a lock.
type Runner struct {
	Records journal.Store // what each sandbox has; see Records
	Running journal.Store // each sandbox's lock, and the process of a plugin that runs; in memory: both end with the boot
	Path    string        // CNI_PATH: where plugins are
	Devices devinfo.Dir   // device-info files
	// Multus is where Multus saved what it attached, so that its pods are torn down; empty: it never ran here.
	Multus takeover.Multus

	Timeout  time.Duration // for one plugin; 0 means DefaultTimeout
	LockWait time.Duration // for the container's lock; 0 means DefaultLockWait

	Stderr io.Writer // what plugins that succeed wrote; nil drops it
	Log    *slog.Logger

	unended sync.Map // by container id, the []Process that were killed and are still there
}

// A Sandbox is what the runtime says with each call.
type Sandbox struct {
	ContainerID string
	Netns       string // path; may be empty at DEL
	IfName      string // the default network's interface, such as eth0
	Args        string // CNI_ARGS, passed on as it is
	Pod         network.Pod
	// Result is, at DEL, what ADD answered: the default network's, as the runtime kept it. It counts where our record is lost:
	// plugins such as firewall know the pod's addresses from it alone.
	Result json.RawMessage
}

func (sb Sandbox) check() error {
	if err := journal.CheckKey(sb.ContainerID); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_CONTAINERID: %v", err), "")
	}
	if err := cni.CheckContainerID(sb.ContainerID); err != nil {
		return err
	}
	if err := cni.CheckIfName(sb.IfName); err != nil {
		return fmt.Errorf("CNI_IFNAME: %w", err)
	}
	return nil
}

// lock keeps every other call on the container away until release.
func (r *Runner) lock(ctx context.Context, containerID string) (release func(), err error) {
	l, err := r.Running.TryLock(containerID)
	if errors.Is(err, journal.ErrLocked) {
		wait := orDefault(r.LockWait, DefaultLockWait)
		waiting, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("another call on this container did not end in %v", wait))
		defer cancel()
		l, err = r.Running.Lock(waiting, containerID)
	}
	if err != nil {
		return nil, err
	}
	return r.own(ctx, l, containerID)
}

// tryLock is lock for who does not wait: the error wraps journal.ErrLocked.
func (r *Runner) tryLock(ctx context.Context, containerID string) (release func(), err error) {
	l, err := r.Running.TryLock(containerID)
	if err != nil {
		return nil, err
	}
	return r.own(ctx, l, containerID)
}

// own ends what a call before has left running: with the lock, nothing else of the container's runs.
func (r *Runner) own(ctx context.Context, l *journal.Lock, containerID string) (release func(), err error) {
	if err := r.endLeftover(ctx, containerID); err != nil {
		r.release(l, containerID)
		return nil, err
	}
	return func() { r.release(l, containerID) }, nil
}

// release gives the lock back. Plugins that could not be ended stay on record: what hangs in the kernel may act yet, and the next
// call has to wait for it.
func (r *Runner) release(l *journal.Lock, containerID string) {
	var err error
	if left := r.left(containerID); len(left) > 0 {
		err = r.Running.Write(containerID, processes{left[0], left[1:]})
	} else {
		err = r.Running.Remove(containerID)
	}
	if err = errors.Join(err, l.UnlockAndRemove()); err != nil {
		r.Log.Warn("cannot give back the lock of a container", "container", containerID, "error", err)
	}
}

// processes are on record while a plugin runs: that, and those before it that were killed and are still there.
type processes struct {
	Process
	Left []Process `json:"left,omitempty"`
}

func (r *Runner) left(containerID string) []Process {
	left, _ := r.unended.Load(containerID)
	list, _ := left.([]Process)
	return list
}

// endLeftover ends what a killed call on the container, or this one, has left running. Hold the lock.
func (r *Runner) endLeftover(ctx context.Context, containerID string) error {
	var p processes
	switch err := r.Running.Read(containerID, &p); {
	case errors.Is(err, journal.ErrNotExist):
		return nil
	case errors.Is(err, journal.ErrCorrupt), errors.Is(err, journal.ErrVersion):
		return nil // not ours to read; the kernel has ended the plugin itself
	case err != nil:
		return err
	}
	r.unended.Delete(containerID) // they are among these
	return r.end(ctx, containerID, append(p.Left, p.Process)...)
}

// endWait is how long a process that was killed may take to end. The kernel lets none end that waits for a device, say.
const endWait = 10 * time.Second

// end ends processes, waits a while for that, and remembers those for which it was not enough.
func (r *Runner) end(ctx context.Context, containerID string, all ...Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endWait, fmt.Errorf("killed, but still there after %v", endWait))
	defer cancel()
	left := r.left(containerID)
	var errs []error
	for _, p := range all {
		if err := p.end(ctx, containerID); err != nil {
			left, errs = append(left, p), append(errs, err)
		}
	}
	r.unended.Store(containerID, left)
	return errors.Join(errs...)
}

// env is the environment of one plugin of one attachment.
func (r *Runner) env(rec *Record, a *Attached, chain *Chain, verb, netns string) map[string]string {
	args := rec.Args
	add := func(key, value string) {
		if value != "" && !strings.ContainsAny(value, ";=") {
			args = strings.TrimPrefix(args+";"+key+"="+value, ";")
		}
	}
	// Some plugins, such as ovs, know no runtimeConfig and take a MAC from here, where Multus writes it too.
	var mac string
	if json.Unmarshal(a.Capabilities["mac"], &mac) == nil {
		add("MAC", mac)
	}
	var ips []string
	if chain.takesIPArg() && json.Unmarshal(a.Capabilities["ips"], &ips) == nil {
		add("IP", strings.Join(ips, ","))
	}
	return map[string]string{
		"CNI_COMMAND": verb, "CNI_CONTAINERID": rec.ContainerID, "CNI_NETNS": netns, "CNI_IFNAME": a.IfName,
		"CNI_ARGS": args, "CNI_PATH": r.Path,
	}
}
