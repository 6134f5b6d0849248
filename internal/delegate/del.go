package delegate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
)

// Del detaches the sandbox from everything that its record names, in reverse. It tries all and reports all that failed;
// the record then stays for the next Del. Without a record, fallback (the default network as the node has it now) gets
// its DEL, in case the record was lost; a sandbox that Multus attached is torn down by what that saved. A record that cannot be
// read is set aside, fallback gets its DEL, and the error says where the record is; the next Del has no record.
func (r *Runner) Del(ctx context.Context, sb Sandbox, fallback network.Attachment) error {
	if err := sb.check(); err != nil {
		return err
	}
	release, err := r.lock(ctx, sb.ContainerID)
	if err != nil {
		return err
	}
	defer release()
	rec, err := r.load(sb.ContainerID)
	switch {
	case err == nil:
		return r.tearDown(ctx, rec)
	case errors.Is(err, journal.ErrNotExist):
		rec, err = r.adopt(sb)
		switch {
		case err == nil:
			return r.tearDown(ctx, rec)
		case errors.Is(err, takeover.ErrNotExist):
			// An ADD that was killed while it wrote its first record has left a part of one. It had started no plugin yet.
			return errors.Join(r.delFallback(ctx, sb, fallback), r.Records.Remove(sb.ContainerID))
		case errors.Is(err, takeover.ErrCorrupt):
			err = fmt.Errorf("what Multus saved of container %s: %w", sb.ContainerID, err)
			return errors.Join(setAside(r.Multus, sb.ContainerID, err), r.delFallback(ctx, sb, fallback))
		}
		return err
	case isBroken(err):
		return errors.Join(setAside(r.Records, sb.ContainerID, err), r.delFallback(ctx, sb, fallback))
	}
	return err
}

// isBroken reports whether a record was found that nothing can be read from.
func isBroken(err error) bool {
	return errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrVersion)
}

// setAside puts what is broken out of the way, so that the next DEL meets with a sandbox without a record. The error says why,
// and where it is now. Hold the lock.
func setAside(from interface{ SetAside(string) (string, error) }, containerID string, why error) error {
	path, err := from.SetAside(containerID)
	if err != nil {
		return errors.Join(why, err)
	}
	return fmt.Errorf("%w; it is now %s; networks beside the default one may have left something behind", why, path)
}

// delFallback runs the default network's DEL for a sandbox without a record.
func (r *Runner) delFallback(ctx context.Context, sb Sandbox, fallback network.Attachment) error {
	ns := netnsForDel(sb)
	rec, _, err := newRecord(sb, ns, []network.Attachment{fallback})
	if err != nil {
		return err
	}
	a := &rec.Attachments[0]
	if len(sb.Result) > 0 && string(sb.Result) != "null" {
		chain, err := ParseChain(a.Config)
		if err == nil {
			a.Result, err = convertResult(sb.Result, chain.CNIVersion)
		}
		if err != nil {
			r.Log.Warn("cannot use what the runtime kept of the pod's network", "container", sb.ContainerID, "error", err)
		}
	}
	return r.delOne(ctx, rec, a, ns.Path)
}

// tearDown runs DEL for each attachment that may have been touched, last first, and removes the record when nothing is
// left of it. Those whose DEL has failed before come after the others: a few that hang take all the time that the runtime gives
// to each of its tries, and the others must not wait for them. Hold the lock.
func (r *Runner) tearDown(ctx context.Context, rec *Record) error {
	netns := rec.livePath()
	lagging := rec.lagging()
	var fresh, failed []*Attached
	for i := range rec.Attachments {
		switch a := &rec.Attachments[i]; {
		case a.Phase == Gone || a.Phase == Planned && !lagging:
		case a.Phase == Deleting:
			failed = append(failed, a)
		default:
			fresh = append(fresh, a)
		}
	}
	var errs []error
	for _, a := range slices.Backward(append(failed, fresh...)) {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", a.Name, context.Cause(ctx)))
			continue
		}
		if err := r.delOne(ctx, rec, a, netns); err != nil {
			a.Phase = Deleting
			// At once: the next one may take until somebody kills us.
			errs = append(errs, err, r.keep(rec))
			continue
		}
		a.Phase = Gone
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, r.keep(rec))
	}
	if err := r.forget(rec); err != nil {
		return err
	}
	return r.Records.Remove(rec.ContainerID)
}

// keep writes down what is left to do of a teardown.
func (r *Runner) keep(rec *Record) error {
	rec.Phase = Deleting
	return r.Records.Write(rec.ContainerID, rec)
}

// delOne runs DEL of the attachment's plugins, last first. All of them, whatever fails: the first plugin of a chain is
// the one that holds the address and the device.
func (r *Runner) delOne(ctx context.Context, rec *Record, a *Attached, netns string) error {
	chain, err := ParseChain(a.Config)
	if err != nil {
		return fmt.Errorf("network %s: %w", a.Name, err)
	}
	capabilities := withDeviceFile(a)
	extra := map[string]any{}
	if a.Result != nil && chain.atLeast("0.4.0") {
		extra["prevResult"] = a.Result
	}
	var errs []error
	for _, p := range slices.Backward(chain.Plugins) {
		stdin, err := chain.stdin(p, capabilities, extra)
		if err == nil {
			_, err = r.exec(ctx, call{
				verb: "DEL", network: a.Name, ifName: a.IfName, plugin: p, stdin: stdin,
				env: r.env(rec, a, chain, "DEL", netns), containerID: rec.ContainerID,
			})
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.removeDeviceInfo(a)
}
