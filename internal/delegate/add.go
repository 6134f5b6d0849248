package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A Planner says what networks a sandbox gets, the default one first.
type Planner func(ctx context.Context) ([]network.Attachment, error)

// Add attaches the sandbox to what plan says, in order, and returns its record. If one network fails, all are undone in
// reverse, that one too, and the error says which plugin failed (PluginError); what could not be undone stays on record
// for Del. If the container has a record already, that is torn down first.
func (r *Runner) Add(ctx context.Context, sb Sandbox, plan Planner) (*Record, error) {
	if err := sb.check(); err != nil {
		return nil, err
	}
	ns, err := openNetns(sb.Netns)
	if err != nil {
		return nil, err
	}
	if ns.host() {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+sb.Netns+" is the node's own network namespace", "")
	}
	release, err := r.lock(ctx, sb.ContainerID)
	if err != nil {
		return nil, err
	}
	defer release()
	broken, err := r.clear(ctx, sb.ContainerID)
	if err != nil {
		return nil, fmt.Errorf("tear down what an earlier ADD of this container left: %w", err)
	}
	attachments, err := plan(ctx)
	if err != nil {
		return nil, err
	}
	rec, chains, err := newRecord(sb, ns, attachments)
	if err != nil {
		return nil, err
	}
	if a := &rec.Attachments[0]; broken && a.nodesOwn() { // as DEL does; the others are known to nobody
		if err := r.delOne(ctx, rec, a, ns.Path); err != nil {
			r.Log.Warn("cannot tear down the default network of an earlier ADD", "container", sb.ContainerID, "error", err)
		}
	}
	if err := r.addAll(ctx, rec, chains); err != nil {
		return nil, errors.Join(err, r.undo(ctx, rec))
	}
	return rec, nil
}

// clear tears down the container's record, if it has one. One that cannot be read is broken, and set aside: nothing in it can be
// relied on, and the pod must be able to start.
func (r *Runner) clear(ctx context.Context, containerID string) (broken bool, err error) {
	rec, err := r.load(containerID)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return false, nil
	case isBroken(err):
		path, aside := r.Records.SetAside(containerID)
		if aside == nil {
			r.Log.Error("the record of an earlier ADD cannot be read; it is set aside", "error", err, "path", path)
		}
		return true, aside
	case err != nil:
		return false, err
	}
	return false, r.tearDown(ctx, rec)
}

func (r *Runner) addAll(ctx context.Context, rec *Record, chains []*Chain) error {
	rec.Phase = Adding
	w := writer{store: r.Records, rec: rec}
	defer w.wait() //nolint:errcheck // only so that nothing works on the record any more: a failure was seen, or is moot
	for i, chain := range chains {
		a := &rec.Attachments[i]
		var err error
		if a.DeviceFile, err = r.devicePath(rec, a, chain); err != nil {
			return err
		}
		if err := r.findAll(rec, a, chain); err != nil {
			return err
		}
		a.Phase = Adding
		write := func() error {
			// This also says that the attachment before is done.
			if err := w.write(); err != nil {
				return fmt.Errorf("write down the intent: %w", err)
			}
			return nil
		}
		if !w.begun && !a.nodesOwn() { // DEL knows of it by the record alone: not even a process of it may come first
			if err := write(); err != nil {
				return err
			}
			write = func() error { return nil }
		}
		ready := func() error {
			if err := write(); err != nil {
				return err
			}
			return r.copyDeviceInfo(rec, a)
		}
		if err := r.addOne(ctx, rec, a, chain, ready); err != nil {
			return err
		}
		a.Phase = Added
	}
	if err := setDefaultRoutes(rec); err != nil {
		return err
	}
	rec.Phase = Added
	if err := w.write(); err != nil {
		return fmt.Errorf("write down what was done: %w", err)
	}
	return nil
}

// addOne runs the attachment's plugins in order, each given the result of the one before. ready is called before the first one
// can do anything.
func (r *Runner) addOne(ctx context.Context, rec *Record, a *Attached, chain *Chain, ready func() error) error {
	capabilities := withDeviceFile(a)
	var result json.RawMessage
	for _, p := range chain.Plugins {
		extra := map[string]any{}
		if result != nil {
			extra["prevResult"] = result
		}
		stdin, err := chain.stdin(p, capabilities, extra)
		if err != nil {
			return err
		}
		out, err := r.exec(ctx, call{
			verb: "ADD", network: a.Name, ifName: a.IfName, plugin: p, stdin: stdin,
			env: r.env(rec, a, chain, "ADD", rec.Netns.Path), containerID: rec.ContainerID, ready: ready,
		})
		if err != nil {
			return err
		}
		ready = nil
		if result, err = convertResult(out, chain.CNIVersion); err != nil {
			return &PluginError{
				Network: a.Name, IfName: a.IfName, Plugin: p.Type, Verb: "ADD", Code: types.ErrDecodingFailure, Err: err,
				Details: fmt.Sprintf("it printed %q", out[:min(len(out), 1024)]),
			}
		}
	}
	a.Result = result
	a.DeviceInfo = r.readDeviceInfo(a)
	return nil
}

// undo tears down a failed ADD, even if the caller has given up waiting for it.
func (r *Runner) undo(ctx context.Context, rec *Record) error {
	ctx = context.WithoutCancel(ctx)
	err := r.endLeftover(ctx, rec.ContainerID)
	if err == nil {
		err = r.tearDown(ctx, rec)
	}
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// Result is the default network's result, for the runtime.
func (r *Record) Result() (types.Result, error) {
	for _, a := range r.Attachments {
		if a.IsDefault {
			return cni.ReadResult(a.Result, "")
		}
	}
	return nil, errors.New("the sandbox has no default network")
}
