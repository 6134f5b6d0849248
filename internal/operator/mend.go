package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// ErrCaptured means that a captured tree cannot be mended.
var ErrCaptured = errors.New("--root is a tree of files, and no node whose VFs could be changed")

// What keeps Restore and GC from a VF that has no owner by its record, unless Restore is forced; test with errors.Is.
var (
	// ErrHeld means that a pod has it.
	ErrHeld = errors.New("a pod has the VF")
	// ErrUnknown means that the kubelet, which would know, does not answer.
	ErrUnknown = errors.New("whether a pod has the VF is not known")
)

// Restore puts one VF back: see sriov.Plugin.Restore. Without force it also refuses a VF that the kubelet has given to a pod
// other than the one on record, with ErrHeld, or of which nobody but the kubelet could say, which does not, with ErrUnknown.
func (n *Node) Restore(ctx context.Context, what string, force bool) (pci.Address, sriov.Outcome, error) {
	if n.captured() {
		return pci.Address{}, "", ErrCaptured
	}
	status, err := n.Look(ctx)
	if err != nil {
		return pci.Address{}, "", err
	}
	address, err := status.target(what)
	if err != nil {
		return address, "", err
	}
	if _, v, _ := status.Find(address.String()); v != nil && !force {
		if err := v.mayBeHeld(status.deaf); err != nil {
			return address, "", fmt.Errorf("%s: %w", address, err)
		}
	}
	outcome, err := n.Plugin().Restore(ctx, address, force)
	if err != nil {
		err = fmt.Errorf("%s: %w", address, err)
	}
	return address, outcome, err
}

// mayBeHeld is why a VF whose owner on record is gone, or that has none, may be a pod's all the same. deaf is why what the
// kubelet says does not count.
func (v *VF) mayBeHeld(deaf error) error {
	switch {
	case v.State == Allocated:
		return fmt.Errorf("%w: %s", ErrHeld, v.Owner)
	case v.holder != nil && (v.State == Left || v.State == Removing):
		return fmt.Errorf("%w: %s", ErrHeld, v.holder)
	case deaf == nil || v.view == nil || v.view.Record == nil: // without a record nothing is done to it
		return nil
	case v.State == Free, (v.State == Left || v.State == Removing) && v.view.Record.Baseline.Netdev == nil:
		// Who uses a VF with an interface is seen by where that is.
		return fmt.Errorf("%w: %w", ErrUnknown, deaf)
	}
	return nil
}

// target is the VF that a person means; one that is no more has a record at least.
func (s *Status) target(what string) (pci.Address, error) {
	for _, x := range s.Stray {
		if x.Address == what {
			return pci.ParseAddress(what)
		}
	}
	_, v, err := s.Find(what)
	if err != nil {
		return pci.Address{}, err
	}
	if v == nil {
		return pci.Address{}, fmt.Errorf("%s is a PF: name one of its VFs, such as %s#0", what, what)
	}
	return pci.ParseAddress(v.Address)
}

// A Collected is one thing that GC looked at and that has no owner any more.
type Collected struct {
	Kind    string `json:"kind"` // sandbox, vf
	Name    string `json:"name"`
	Owner   string `json:"owner,omitempty"`
	Outcome string `json:"outcome,omitempty"` // empty: see Error, or nothing was to be done yet
	Error   string `json:"error,omitempty"`
}

// GC tears down what has no owner any more: first the sandboxes, on record or attached by Multus, whose network namespace is
// gone, by the plugins of their networks, then the VFs on record that are still not back, and records that mean nothing. With
// dryRun it only says which. The error says that something is left; ErrElsewhere, that nothing was looked at.
func (n *Node) GC(ctx context.Context, dryRun bool) ([]Collected, error) {
	if n.captured() {
		return nil, ErrCaptured
	}
	if err := inNodesMounts(); err != nil {
		return nil, err
	}
	sandboxes, err1 := n.gcSandboxes(ctx, dryRun)
	vfs, err2 := n.gcVFs(ctx, dryRun)
	all := append(sandboxes, vfs...)
	errs := []error{err1, err2}
	for _, c := range all {
		if c.Error != "" {
			errs = append(errs, fmt.Errorf("%s %s: %s", c.Kind, c.Name, c.Error))
		}
	}
	return all, errors.Join(errs...)
}

// ErrElsewhere means that the runtime's network namespaces cannot be seen: those of living pods would count as gone.
var ErrElsewhere = errors.New("not in the node's own mount namespace, where the pods' network namespaces are")

// inNodesMounts makes sure that we see what the runtime mounts. A chroot into the node's root, such as a debugging container's,
// does not: what was mounted there since is a plain file.
func inNodesMounts() error {
	return sameFile("/proc/self/ns/mnt", "/proc/1/ns/mnt")
}

func sameFile(ours, nodes string) error {
	a, err1 := os.Stat(ours)
	b, err2 := os.Stat(nodes)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w, as far as can be seen: %w", ErrElsewhere, err)
	}
	if !os.SameFile(a, b) {
		return fmt.Errorf("%w: nsenter --target 1 --mount -- /opt/cni/bin/vfctl gc", ErrElsewhere)
	}
	return nil
}

func (n *Node) gcSandboxes(ctx context.Context, dryRun bool) ([]Collected, error) {
	runner := n.Runner()
	list, err := runner.List()
	var all []Collected
	for _, s := range list {
		if s.Alive {
			continue
		}
		c := Collected{Kind: "sandbox", Name: s.Key}
		switch {
		case s.Err != nil:
			c.Error = s.Err.Error() + "; its container's DEL sets it aside"
		case dryRun:
			c.Owner, c.Outcome = podOf(s.Record), wouldTearDown
		default:
			c.Owner = podOf(s.Record)
			c.tornDown(runner.CollectDead(ctx, s.Key))
		}
		all = append(all, c)
	}
	theirs, err2 := n.gcOfMultus(ctx, runner, dryRun)
	return append(all, theirs...), errors.Join(err, err2)
}

const wouldTearDown = "its network namespace is gone: would be torn down"

// tornDown notes what came of tearing a sandbox down.
func (c *Collected) tornDown(gone bool, failed error) {
	switch {
	case failed != nil:
		c.Error = failed.Error()
	case gone:
		c.Outcome = "torn down"
	default:
		c.Outcome = "left alone: another call works on it"
	}
}

// gcOfMultus tears down what Multus attached and nobody deleted.
func (n *Node) gcOfMultus(ctx context.Context, runner *delegate.Runner, dryRun bool) (all []Collected, err error) {
	dead, err := runner.DeadOfMultus()
	for _, id := range dead {
		c := Collected{Kind: "sandbox", Name: id, Owner: "attached by Multus"}
		if dryRun {
			c.Outcome = wouldTearDown
		} else {
			c.tornDown(runner.CollectOfMultus(ctx, id))
		}
		all = append(all, c)
	}
	return all, err
}

func podOf(r *delegate.Record) string {
	if r.Pod.Name == "" {
		return ""
	}
	return r.Pod.Namespace + "/" + r.Pod.Name
}

func (n *Node) gcVFs(ctx context.Context, dryRun bool) ([]Collected, error) {
	plugin := n.Plugin()
	keys, err := plugin.Records.Keys()
	if len(keys) == 0 {
		return nil, err
	}
	status, err := n.Look(ctx)
	if err != nil {
		return nil, err
	}
	mayBeHeld := func(address string) error {
		if _, v, _ := status.Find(address); v != nil {
			return v.mayBeHeld(status.deaf)
		}
		return nil // it is no more
	}
	var all []Collected
	for _, key := range keys {
		if c := n.gcVF(ctx, plugin, key, mayBeHeld, dryRun); c != nil {
			all = append(all, *c)
		}
	}
	return all, err
}

// gcVF puts one VF back; nil if there was nothing to do.
func (n *Node) gcVF(ctx context.Context, plugin *sriov.Plugin, key string, mayBeHeld func(string) error, dryRun bool) *Collected {
	address, err := pci.ParseAddress(key)
	if err != nil {
		return nil // no record of ours
	}
	c := &Collected{Kind: "vf", Name: key}
	r, err := plugin.ReadRecord(address)
	if err != nil {
		c.Error = err.Error() + "; vfctl restore --force resets the VF to safe defaults"
		return c
	}
	if r.Phase != sriov.Free {
		c.Owner = r.Owner.String()
	}
	_, missing := pci.Read(n.Root, address)
	if isGone := errors.Is(missing, pci.ErrNoDevice) && !r.Alive(); !plugin.Dead(r) && !isGone {
		return nil
	}
	switch held := mayBeHeld(key); {
	case errors.Is(held, ErrHeld):
		c.Outcome = "left alone: " + held.Error()
		return c
	case held != nil:
		c.Error = held.Error()
		return c
	}
	if dryRun {
		c.Outcome = "nobody will come for it: would be put back, or its record dropped"
		return c
	}
	outcome, err := plugin.Restore(ctx, address, false)
	switch living := errors.Is(err, sriov.ErrLiving); {
	case living && r.Alive():
		return nil
	case living: // somebody uses it whom the record does not name, or it got an owner this moment
		c.Outcome = "left alone: " + err.Error()
		return c
	}
	c.Outcome = string(outcome)
	if err != nil {
		c.Outcome, c.Error = "", err.Error()
	}
	return c
}

// Table prints what GC did for a person.
func Table(all []Collected) func(io.Writer) error {
	return func(w io.Writer) error {
		if len(all) == 0 {
			_, err := fmt.Fprintln(w, "nothing is left over")
			return err
		}
		rows := make([][]string, 0, len(all))
		for _, c := range all {
			name := c.Name
			if c.Kind == "sandbox" {
				name = short(name)
			}
			rows = append(rows, []string{c.Kind, name, middle(cmp.Or(c.Owner, "-"), 60), cmp.Or(c.Outcome, "FAILED, see below")})
		}
		_, err := fmt.Fprintln(w, strings.Join(align(rows), "\n"))
		return err
	}
}
