package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// Pods that Multus attached before the node was ours run on, and their DEL comes to us. What Multus saved of them becomes a
// record like our own, so that a DEL that fails is tried again, and Multus' files go when nothing is left of the sandbox.

// adopt makes a record of what Multus saved of the sandbox, in phase added, and writes it. One of its networks may not have
// come that far, but DEL may come for what never was. Errors wrap takeover.ErrNotExist, takeover.ErrCorrupt or are the file
// system's own. Hold the lock.
func (r *Runner) adopt(sb Sandbox) (*Record, error) {
	if r.Multus == "" {
		return nil, takeover.ErrNotExist
	}
	saved, err := r.Multus.Sandbox(sb.ContainerID, sb.IfName)
	if err != nil {
		return nil, err
	}
	rec := &Record{
		ContainerID: sb.ContainerID, Pod: sb.Pod, IfName: sb.IfName, Args: sb.Args, Netns: netnsForDel(sb), Boot: bootID(), Phase: Added,
	}
	if rec.Args == "" {
		rec.Args = saved[0].CNIArgs()
	}
	for i, d := range saved {
		a := Attached{Phase: Added, Result: d.Result}
		a.Name, a.IfName, a.Config, a.IsDefault = d.Name, d.IfName, d.Config, i == 0
		if chain, err := ParseChain(d.Config); err == nil { // else check says so
			a.Capabilities = chain.declared(d.Capabilities)
		}
		rec.Attachments = append(rec.Attachments, a)
	}
	if err := rec.check(sb.ContainerID); err != nil {
		return nil, fmt.Errorf("%w: %w", takeover.ErrCorrupt, err)
	}
	if err := r.Records.Write(sb.ContainerID, rec); err != nil {
		return nil, err
	}
	r.Log.Info("takes over a sandbox that Multus attached", "container", sb.ContainerID, "networks", len(rec.Attachments))
	return rec, nil
}

// forget removes Multus' files of a sandbox of which nothing is left.
func (r *Runner) forget(rec *Record) error {
	if r.Multus == "" {
		return nil
	}
	saved, err := r.Multus.Sandbox(rec.ContainerID, rec.IfName)
	if errors.Is(err, takeover.ErrNotExist) {
		return nil
	}
	errs := []error{r.Multus.Forget(rec.ContainerID, saved)}
	for _, d := range saved {
		var path string
		if json.Unmarshal(d.Capabilities[deviceFileCapability], &path) == nil && path != "" {
			// Multus gives its copy no ending.
			errs = append(errs, r.Devices.RemoveOfPod(filepath.Base(path)))
		}
	}
	return errors.Join(errs...)
}

// netnsForDel is the sandbox's namespace, empty if it is gone, as it may be at DEL.
func netnsForDel(sb Sandbox) Netns {
	if sb.Netns == "" {
		return Netns{}
	}
	if open, err := openNetns(sb.Netns); err == nil && !open.host() {
		return open
	}
	return Netns{}
}

// DeadOfMultus lists the containers that Multus attached and nobody deleted: the namespace that they had is gone, and no record
// of ours is there. Their DEL may have come while neither Multus nor we were what the runtime called.
func (r *Runner) DeadOfMultus() (dead []string, err error) {
	ids, err := r.Multus.Containers()
	for _, id := range ids {
		if _, missing := Read(r.Records, id); errors.Is(missing, journal.ErrNotExist) && r.isDeadOfMultus(id) {
			dead = append(dead, id)
		}
	}
	return dead, err
}

// isDeadOfMultus reports whether the container's namespace is known and gone.
func (r *Runner) isDeadOfMultus(containerID string) bool {
	saved, err := r.Multus.Sandbox(containerID, defaultIfName)
	known := false
	for _, d := range saved {
		if d.Netns == "" {
			continue
		}
		known = true
		if !isGone(d.Netns) {
			return false
		}
	}
	return err == nil && known
}

// isGone reports whether no namespace is at path any more, as the runtime's mounts are seen here.
func isGone(path string) bool {
	ns, err := netns.Open(path)
	if err == nil {
		_ = ns.Close()
	}
	return errors.Is(err, netns.ErrGone)
}

// defaultIfName is what every runtime of Kubernetes calls a pod's first interface.
const defaultIfName = "eth0"

// CollectOfMultus tears down one of DeadOfMultus, and reports whether nothing of it is left. One that another call works on is
// left to that.
func (r *Runner) CollectOfMultus(ctx context.Context, containerID string) (gone bool, err error) {
	sb := Sandbox{ContainerID: containerID, IfName: defaultIfName}
	if err := sb.check(); err != nil {
		return false, err
	}
	release, err := r.tryLock(ctx, containerID)
	if errors.Is(err, journal.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer release()
	// Its DEL may have come until the lock was ours.
	if _, err := Read(r.Records, containerID); !errors.Is(err, journal.ErrNotExist) || !r.isDeadOfMultus(containerID) {
		return false, nil
	}
	rec, err := r.adopt(sb)
	if err != nil {
		return false, err
	}
	return true, r.tearDown(ctx, rec)
}
