package delegate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

const (
	// sweepEvery is how often Sweep looks for dead sandboxes: containerd never calls GC.
	sweepEvery = 10 * time.Minute
	// sweepBudget is after which time a Sweep begins no other sandbox: it takes its time from the ADD that it is part of. What
	// is left over is the next one's.
	sweepBudget = 5 * time.Second
	// sweepOne bounds one of them. A DEL that asks a server on the network takes seconds; one that were killed after less than
	// it needs would be killed by each sweep.
	sweepOne = 20 * time.Second
)

// GC tears down every sandbox on record whose attachment is not among valid, the runtime's complete list, and then
// calls GC of the networks' plugins with what remains. Sandboxes that another call works on are left alone. A record that
// cannot be read is set aside if its container is not among valid, and the error says where it is.
func (r *Runner) GC(ctx context.Context, def network.Attachment, valid []types.GCAttachment) error {
	keys, err := r.traces()
	if err != nil {
		return err
	}
	var errs []error
	networks := newValidSet(valid)
	for _, key := range keys {
		rec, err := r.collect(ctx, key, func(rec *Record) bool {
			return !slices.Contains(valid, types.GCAttachment{ContainerID: rec.ContainerID, IfName: rec.IfName})
		})
		if isBroken(err) && !slices.ContainsFunc(valid, func(a types.GCAttachment) bool { return a.ContainerID == key }) {
			err = r.setAsideDead(ctx, key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", key, err))
		}
		if rec != nil {
			networks.add(rec)
		}
	}
	return errors.Join(append(errs, r.gcPlugins(ctx, def, networks))...)
}

// traces lists the containers that there is a record of, or what a killed call has left: a part of a record, a lock, a plugin's
// process. Container ids never come again, so nobody else removes these.
func (r *Runner) traces() ([]string, error) {
	records, err := r.Records.Traces()
	if err != nil {
		return nil, err
	}
	running, err := r.Running.Traces()
	if err != nil {
		return nil, err
	}
	all := slices.Concat(records, running)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// collect tears down the record of key if it is dead. It returns the record if something of it may still be in use.
func (r *Runner) collect(ctx context.Context, key string, dead func(*Record) bool) (*Record, error) {
	rec, err := r.load(key)
	none := errors.Is(err, journal.ErrNotExist)
	if err != nil && !none {
		return nil, err
	}
	if !none && !dead(rec) {
		return rec, nil
	}
	release, err := r.tryLock(ctx, key)
	if errors.Is(err, journal.ErrLocked) {
		return rec, nil
	}
	if err != nil {
		return rec, err
	}
	defer release()
	// It may have changed until the lock was ours.
	rec, err = r.load(key)
	if errors.Is(err, journal.ErrNotExist) {
		return nil, r.Records.Remove(key) // its DEL came first; or a power cut or a kill has left no record
	}
	if err != nil || !dead(rec) {
		return rec, err
	}
	if err := r.tearDown(ctx, rec); err != nil {
		return rec, err
	}
	r.Log.Info("tore down a sandbox that is gone", "container", key, "pod", rec.Pod.Namespace+"/"+rec.Pod.Name)
	return nil, nil //nolint:nilnil // nothing of it is left
}

// setAsideDead puts a broken record out of the way: the container's DEL, that would do so, may never come, and each GC would
// fail. The error says where it is; the next GC has none.
func (r *Runner) setAsideDead(ctx context.Context, key string) error {
	release, err := r.tryLock(ctx, key)
	if errors.Is(err, journal.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	if _, err = r.load(key); !isBroken(err) {
		return nil // its DEL came first
	}
	return setAside(r.Records, key, err)
}

// A validSet is the attachments in use, by the name of their network: the name that IPAM plugins keep their leases by.
type validSet struct {
	runtime []types.GCAttachment
	byName  map[string][]types.GCAttachment
	configs map[string]*Chain // by name and configuration: two definitions may share a name
	known   map[string]bool   // containers that have a record
}

func newValidSet(valid []types.GCAttachment) *validSet {
	return &validSet{
		runtime: valid, byName: map[string][]types.GCAttachment{}, configs: map[string]*Chain{}, known: map[string]bool{},
	}
}

func (s *validSet) add(rec *Record) {
	s.known[rec.ContainerID] = true
	for _, a := range rec.Attachments {
		chain, err := ParseChain(a.Config)
		if err != nil || a.Phase == Gone {
			continue
		}
		s.byName[chain.Name] = append(s.byName[chain.Name], types.GCAttachment{ContainerID: rec.ContainerID, IfName: a.IfName})
		s.configs[chain.Name+string(a.Config)] = chain
	}
}

// complete reports whether each of the runtime's attachments is on record. One that is not was made before this plugin
// came to the node, by another meta plugin perhaps, and what other networks it has is known to nobody here.
func (s *validSet) complete() bool {
	return !slices.ContainsFunc(s.runtime, func(a types.GCAttachment) bool { return !s.known[a.ContainerID] })
}

// gcPlugins calls GC of each network that can be asked. The default network's attachments are the runtime's own list and
// whatever the records add to it.
func (r *Runner) gcPlugins(ctx context.Context, def network.Attachment, s *validSet) error {
	chain, err := ParseChain(def.Config)
	if err != nil {
		return err
	}
	for _, a := range s.runtime {
		if !slices.Contains(s.byName[chain.Name], a) {
			s.byName[chain.Name] = append(s.byName[chain.Name], a)
		}
	}
	chains := map[string]*Chain{chain.Name + string(def.Config): chain}
	if s.complete() {
		maps.Copy(chains, s.configs)
	}
	var errs []error
	for _, c := range chains {
		if c.DisableGC || !c.atLeast("1.1.0") {
			continue
		}
		valid := s.byName[c.Name]
		if valid == nil {
			valid = []types.GCAttachment{}
		}
		// The specification's text and its first implementations differ in the key.
		errs = append(errs, r.each(ctx, c, "GC", map[string]any{
			"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid,
		}))
	}
	return errors.Join(errs...)
}

// Sweep tears down sandboxes whose network namespace is gone, if nobody has looked for ten minutes. It takes some
// seconds at most, and only logs what fails: it is another pod's ADD that pays for it.
func (r *Runner) Sweep(ctx context.Context) {
	if err := r.sweep(ctx); err != nil {
		r.Log.Warn("cannot tear down sandboxes that are gone", "error", err)
	}
}

// sweepRecord is as old as the last sweep, and says which record that ended with: the next one starts behind it, so that one
// that hangs does not keep the others waiting for ever.
type sweepRecord struct {
	Last string `json:"last"`
}

func (r *Runner) sweep(ctx context.Context) error {
	const key = "sweep"
	store := journal.Store{Dir: filepath.Join(r.Running.Dir, "sweep"), Version: 1}
	recent := func() bool {
		age, err := store.Age(key)
		return err == nil && age < sweepEvery && age >= 0
	}
	if recent() { // as nearly always: without a lock
		return nil
	}
	l, err := store.TryLock(key)
	if errors.Is(err, journal.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Unlock() //nolint:errcheck // the process ends anyway
	if recent() {
		return nil
	}
	var last sweepRecord
	_ = store.Read(key, &last) // one that is missing or cannot be read is as good as none
	end, err := r.SweepNow(ctx, sweepBudget, last.Last)
	return errors.Join(err, store.Write(key, sweepRecord{end}))
}

// SweepNow is Sweep without the ten minutes. It looks at the records behind the key after, then at the others, and begins none
// when the time is over. It returns the last key that it looked at, and all that failed.
func (r *Runner) SweepNow(ctx context.Context, budget time.Duration, after string) (last string, err error) {
	keys, err := r.traces()
	if err != nil {
		return "", err
	}
	until := time.Now().Add(budget)
	behind, found := slices.BinarySearch(keys, after)
	if found {
		behind++
	}
	var errs []error
	for _, key := range slices.Concat(keys[behind:], keys[:behind]) {
		if ctx.Err() != nil {
			return last, errors.Join(append(errs, context.Cause(ctx))...)
		}
		if time.Now().After(until) {
			return last, errors.Join(append(errs, fmt.Errorf("not done after %v", budget))...)
		}
		last = key
		if err := r.sweepSandbox(ctx, key); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", key, err))
		}
	}
	return last, errors.Join(errs...)
}

func (r *Runner) sweepSandbox(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sweepOne, fmt.Errorf("not done after %v", sweepOne))
	defer cancel()
	_, err := r.collect(ctx, key, (*Record).dead)
	if errors.Is(err, journal.ErrCorrupt) { // its DEL can read it no more than this, and if it never comes, each sweep would fail
		err = r.setAsideDead(ctx, key)
	}
	return err
}
