package delegate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

const (
	// DefaultTimeout bounds one plugin. The kubelet gives a sandbox two minutes: a plugin that hangs must leave time to undo
	// what others did, and DHCP, the slowest honest one, gives up by itself before a minute is over.
	DefaultTimeout = 60 * time.Second

	maxStdout = 1 << 20
	maxStderr = 16 << 10
	// busyWait is how long to try a binary that somebody is writing (ETXTBSY), as installers that copy in place do.
	busyWait = 5 * time.Second
)

var errTimeout = errors.New("it did not end in time and was killed")

// A PluginError says which plugin of which network failed, and all that it said.
type PluginError struct {
	Network, IfName, Plugin, Verb string
	// Code, Msg and Details are the plugin's own; Code is 999 (internal) if it gave none.
	Code         uint
	Msg, Details string
	Stderr       string
	// Err is what befell the process, or what is wrong with its answer.
	Err error
}

func (e *PluginError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "network %s", e.Network)
	if e.IfName != "" {
		fmt.Fprintf(&b, " on %s", e.IfName)
	}
	fmt.Fprintf(&b, ": plugin %s failed at %s: ", e.Plugin, e.Verb)
	parts := make([]string, 0, 4)
	for _, s := range []string{e.Msg, e.Details} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	// "exit status 1" adds nothing to a plugin's own message.
	if exit := exitError(0); e.Err != nil && (e.Msg == "" || !errors.As(e.Err, &exit)) {
		parts = append(parts, e.Err.Error())
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		parts = append(parts, fmt.Sprintf("it also wrote %q", s))
	}
	b.WriteString(strings.Join(parts, "; "))
	return b.String()
}

func (e *PluginError) Unwrap() error { return e.Err }

// call is one run of one plugin.
type call struct {
	verb, network, ifName string
	plugin                PluginConf
	stdin                 []byte
	env                   map[string]string
	containerID           string // empty: this verb is about no container
	// ready, if not nil, is called while the plugin starts: it can do nothing before it has read its configuration, and gets none if
	// this fails.
	ready func() error
}

// An unreadyError is why a plugin got no configuration. It is none of the plugin's.
type unreadyError struct{ error }

// exec runs a plugin and returns what it printed. The error is a *PluginError, or what c.ready returned.
func (r *Runner) exec(ctx context.Context, c call) ([]byte, error) {
	fail := &PluginError{Network: c.network, IfName: c.ifName, Plugin: c.plugin.Type, Verb: c.verb, Code: types.ErrInternal}
	path, missing := r.find(c.plugin.Type)
	if missing != nil {
		fail.Code, fail.Err = types.ErrInvalidNetworkConfig, missing
		return nil, fail
	}
	stdout, stderr := &limited{max: maxStdout}, &tail{max: maxStderr}
	err := r.start(ctx, c, path, stdout, stderr)
	if unready, ok := errors.AsType[unreadyError](err); ok {
		return nil, unready.error
	}
	if stdout.over {
		err = fmt.Errorf("it printed more than %d bytes", maxStdout)
		stdout.data = nil
	}
	if err == nil {
		if r.Stderr != nil {
			_, _ = r.Stderr.Write(stderr.data) // only informational
		}
		return stdout.data, nil
	}
	fail.Stderr, fail.Err = string(stderr.data), err
	fail.explain(stdout.data)
	return nil, fail
}

// explain takes over the error that the plugin printed, if it did.
func (e *PluginError) explain(stdout []byte) {
	var said types.Error
	switch err := json.Unmarshal(stdout, &said); {
	case err == nil && (said.Msg != "" || said.Code != 0):
		e.Msg, e.Details = said.Msg, said.Details
		if said.Code != 0 {
			e.Code = said.Code
		}
	case len(bytes.TrimSpace(stdout)) > 0:
		e.Details = fmt.Sprintf("it printed no CNI error but %q", stdout[:min(len(stdout), 1024)])
	}
}

// start runs the plugin to its end. It dies with this process, by the kernel: the parent-death signal is bound to the
// thread that forked, so this goroutine keeps its thread until the plugin has ended.
func (r *Runner) start(ctx context.Context, c call, path string, stdout, stderr io.Writer) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	plugin, err := startFree(ctx, path, environ(c.env))
	if err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	defer plugin.close()
	defer context.AfterFunc(ctx, plugin.kill)()
	// A plugin can do nothing before it has read its configuration: it is on record by then.
	p, err := newProcess(plugin.pid)
	if err == nil && c.containerID != "" {
		err = r.Running.Write(c.containerID, processes{p, r.left(c.containerID)})
	}
	if err == nil && c.ready != nil {
		if bad := c.ready(); bad != nil {
			err = unreadyError{bad}
		}
	}
	if err != nil {
		plugin.kill()
		return errors.Join(err, plugin.talk(nil, time.Now().Add(endWait), io.Discard, io.Discard))
	}
	until := time.Now().Add(orDefault(r.Timeout, DefaultTimeout)) // what the disk takes is none of the plugin's time
	if err = plugin.talk(c.stdin, until, stdout, stderr); err == nil {
		return nil // a child of it may still hold its output
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return errors.Join(err, r.end(context.WithoutCancel(ctx), c.containerID, p))
}

// startFree waits a little for a program that somebody is writing.
func startFree(ctx context.Context, path string, env []string) (*child, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c, err := spawn(path, env)
		if !errors.Is(err, unix.ETXTBSY) || time.Since(began) > busyWait {
			return c, err
		}
	}
}

// runIPAM are the plugins known to run the program that their ipam.type names. To another it may be a name like any.
var runIPAM = []string{"bridge", "dummy", "host-device", "ib-sriov", "ipvlan", "macvlan", "ovs", "ptp", "sriov", "tap", "vlan"}

// findAll refuses a chain with a program that is not there, before any of it runs: a plugin, or the IPAM plugin that one runs. Its
// DEL would fail as well, for ever, and the pod would never go. What the node's own default network does with ipam is its own.
func (r *Runner) findAll(rec *Record, a *Attached, chain *Chain) error {
	for i, p := range chain.Plugins {
		key := fmt.Sprintf("plugins[%d].type", i)
		_, err := r.find(p.Type)
		if err == nil && p.IPAM != "" && slices.Contains(runIPAM, p.Type) && !a.nodesOwn() {
			key = fmt.Sprintf("plugins[%d].ipam.type", i)
			_, err = r.find(p.IPAM)
		}
		if err != nil {
			err.Pod, err.Network, err.Key = rec.Pod, a.Name, key
			return err
		}
	}
	return nil
}

// self is this program; nil without /proc: then there is nothing to compare with.
var self = sync.OnceValue(func() os.FileInfo {
	info, err := os.Stat("/proc/self/exe")
	if err != nil {
		return nil
	}
	return info
})

// find looks for the plugin in CNI_PATH. It refuses this program itself, by whatever name: that would never end.
func (r *Runner) find(plugin string) (string, *network.Error) {
	self := self()
	for _, dir := range filepath.SplitList(r.Path) {
		path := filepath.Join(dir, plugin)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if self != nil && os.SameFile(self, info) {
			return "", &network.Error{
				Reason: network.SelfDelegation, Problem: path + " is meta-cni itself, which cannot be one of its own networks",
				Remedy: "name the plugin that attaches the network",
			}
		}
		return path, nil
	}
	return "", &network.Error{
		Reason:  network.NoPlugin,
		Problem: fmt.Sprintf("there is no plugin %s on this node, in CNI_PATH (%s)", plugin, r.Path),
		Remedy:  "install it there, or correct the network's configuration",
	}
}

// variables are CNI's own in a plugin's environment.
var variables = []string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"}

// InsideVariable is in the environment of the plugins that a Runner runs, and so of those that they run.
const InsideVariable = "VIADUCT_INSIDE"

// environ is this process's environment with the CNI variables of this call alone, each once: what the runtime would give the
// plugin, and InsideVariable. One that is not set is empty.
func environ(set map[string]string) []string {
	env := []string{InsideVariable + "=1"}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains(variables, name) {
			env = append(env, kv)
		}
	}
	for _, name := range variables {
		env = append(env, name+"="+set[name])
	}
	return env
}

// limited keeps the first max bytes and fails after them, which ends the plugin's pipe.
type limited struct {
	data []byte
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if len(l.data)+len(p) > l.max {
		l.over = true
		return 0, fmt.Errorf("it printed more than %d bytes", l.max)
	}
	l.data = append(l.data, p...)
	return len(p), nil
}

// tail keeps the last max bytes: the reason stands at the end.
type tail struct {
	data []byte
	max  int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.max; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
