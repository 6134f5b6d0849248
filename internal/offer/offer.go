// Package offer keeps what the kubelet is offered in step with the configuration, the node's devices, and what pods have:
// a change of any of them is one round, from the inventory through the pools to the kubelet.
package offer

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// Inventory is what the node has; see inventory.Inventory.
type Inventory interface {
	Changed() <-chan struct{}
	Devices() ([]*inventory.Device, bool)
}

// An Offer goes its rounds in Run. Fill in the exported fields before.
type Offer struct {
	Config    *ConfigFile
	Inventory Inventory
	Set       *plugin.Set
	Holder    Holder // nil: nobody knows what pods have
	Log       *slog.Logger
	// Reload asks for a look at the configuration now, as SIGHUP does.
	Reload <-chan struct{}
	// Look is the time between two looks at the configuration, and a fifth of that between two rounds that no change
	// asked for; default 2 s.
	Look time.Duration
	// Patience is how long a kubelet that runs may take at the start to say what pods have; default 10 s. Until then nothing
	// is offered: a device that a pod has could be given to a second one.
	Patience time.Duration
	// Settle is how long a device must be missing in what the kubelet says that pods have until it is free; default 30 s.
	Settle time.Duration
	// Grace is how long a device that is gone stays in the kubelet's list, as unhealthy, though no pod has it; default
	// 2 min. VFs that are made anew within it leave no gap.
	Grace time.Duration

	// After is a file without which nothing is offered at first: the meta CNI's configuration, on nodes that have ours. Before it
	// is there, a pod with a VF would start with the default network alone, and nobody would try again. Empty: there is none.
	After string
	// DevInfo and CDI are where files of devices are removed when those are free; CDI nil: there are none.
	DevInfo devinfo.Dir
	CDI     *cdi.Dir

	claims   claims
	profiles inventory.Profiles

	// What only the goroutine of Run uses.
	last    sorting
	served  map[string]bool // resources that had a device once
	owned   []string        // resources whose device-info files are ours; nil: it was not looked yet
	after   bool            // After was there
	open    bool            // what pods have is known, or nobody will tell
	first   holding         // the complete one that is to be confirmed
	waiting time.Time       // since when a kubelet that runs does not tell; zero: there is none
	reasons reasons

	mu     sync.Mutex
	status Status
}

// Status is what Run did so far.
type Status struct {
	Generation int               // of the configuration; 0: none is in force
	ConfigFile string            // where it is
	Problem    string            // with the configuration as it is now; empty: none
	Faults     int               // how many things are wrong with it
	Offering   bool              // there was a round that offered what there is
	Waiting    string            // what it waits for while it does not
	Resources  []plugin.Resource // one for each pool, offered or not
}

// Status reports on the last round.
func (o *Offer) Status() Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.status
}

// Allocating is to be told of each allocation before anything is written for it: see plugin.Config.
func (o *Offer) Allocating(resource string, ids []string) error {
	return o.claims.allocate(resource, ids, time.Now())
}

// Run goes its rounds until ctx ends.
func (o *Offer) Run(ctx context.Context) {
	o.setDefaults()
	o.profiles.Log = o.Log
	o.served = map[string]bool{}
	o.refresh(false)
	ticker := time.NewTicker(o.Look)
	defer ticker.Stop()
	confirm := time.NewTimer(confirmAfter)
	defer confirm.Stop()
	for looks := 0; ; looks++ {
		round, ask := false, true
		select {
		case <-ctx.Done():
			return
		case <-o.Inventory.Changed():
			// What pods got since the kubelet was last asked is known from Allocate, and what they gave back can wait.
			round, ask = true, !o.open
		case <-confirm.C:
			round = !o.open
		case <-o.Reload:
			o.Log.Info("read the configuration again, as asked")
			round = o.refresh(true)
		case <-ticker.C:
			round = o.refresh(false) || looks%5 == 0 || !o.open || !o.after
		}
		if round {
			o.round(ctx, ask)
			if !o.open && !o.first.at.IsZero() {
				confirm.Reset(confirmAfter)
			}
		}
	}
}

func (o *Offer) setDefaults() {
	for field, value := range map[*time.Duration]time.Duration{
		&o.Look: 2 * time.Second, &o.Patience: 10 * time.Second, &o.Settle: 30 * time.Second, &o.Grace: 2 * time.Minute,
	} {
		if *field == 0 {
			*field = value
		}
	}
	o.claims.settle = o.Settle
	o.after = o.After == ""
}

func (o *Offer) refresh(force bool) bool {
	changed := o.Config.refresh(o.Log, force)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Generation, o.status.ConfigFile, o.status.Problem = o.Config.generation, o.Config.file, ""
	o.status.Faults = 0
	if o.Config.problem != nil {
		o.status.Problem, o.status.Faults = o.Config.problem.Error(), 1
		if faults, ok := errors.AsType[pool.Faults](o.Config.problem); ok {
			o.status.Faults = len(faults)
		}
	}
	return changed
}

// round offers what there is. With ask, the kubelet is asked before what pods have, and files of free devices go.
func (o *Offer) round(ctx context.Context, ask bool) {
	now := time.Now()
	if ask {
		o.ask(ctx, now)
	}
	devices, scanned := o.Inventory.Devices()
	waiting := ""
	switch {
	case o.Config.inForce == nil:
		waiting = "a configuration"
	case !scanned:
		waiting = "the first look at the devices"
	case !o.open:
		waiting = "the kubelet to say which devices pods have"
	case !o.isAfter():
		waiting = o.After + ", which meta-agent writes (see its log; is it the file that -wait-for-file should name?): until then no pod with a VF would get its networks"
	}
	if waiting != "" {
		o.mu.Lock()
		defer o.mu.Unlock()
		if waiting != o.status.Waiting {
			o.Log.Warn("nothing is offered yet", "waiting_for", waiting)
		}
		o.status.Waiting = waiting
		return
	}
	if o.Config.inForce.AsksForDDP() {
		devices = o.profiles.Fill(devices)
	}
	held := o.claims.held()
	resources := o.assign(o.Config.inForce, devices, held, now)
	o.explain(ctx, o.Config.inForce, devices, held, resources)
	if ask {
		o.own(resources)
	}
	o.Set.Update(ctx, o.offered(resources))
	if ask {
		o.claims.sweep(now, o.sweep)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Offering, o.status.Waiting, o.status.Resources = true, "", resources
}

// isAfter looks for After. Once it was there, its loss is the agent's to mend: the VFs that pods have must stay offered.
func (o *Offer) isAfter() bool {
	if !o.after {
		_, err := os.Stat(o.After)
		o.after = !errors.Is(err, fs.ErrNotExist) // one that may not be looked at is no reason to wait for ever
	}
	return o.after
}

// A holding is what pods had when the kubelet was asked.
type holding struct {
	held map[string]string
	at   time.Time // zero: there was none
}

// confirmAfter is the time between the first complete answer of a kubelet that just started, and the one that confirms it.
const confirmAfter = 500 * time.Millisecond

func (h holding) confirmedBy(held map[string]string, now time.Time) bool {
	return !h.at.IsZero() && maps.Equal(h.held, held) && now.Sub(h.at) >= confirmAfter
}

// ask reads what pods have. A kubelet that does not answer, or does not know yet, has taken nothing from them. One that just
// started lists pods one after the other, ours perhaps before others: it has to say the same twice. A pod whose device were
// offered as another resource meanwhile would end with UnexpectedAdmissionError.
func (o *Offer) ask(ctx context.Context, now time.Time) {
	if o.Holder == nil {
		o.open = true
		return
	}
	held, complete, err := o.Holder.Held(ctx)
	if err != nil {
		o.Log.Debug("pods' devices are not known anew", "err", err)
	}
	o.claims.answered(held, complete, now)
	switch {
	case o.open:
	case complete:
		if now.Sub(o.Holder.Started()) > o.Settle || o.first.confirmedBy(held, now) {
			o.open = true
		} else if !maps.Equal(held, o.first.held) || o.first.at.IsZero() {
			o.first = holding{held, now}
		}
	case !o.Holder.Up(ctx):
		o.waiting = time.Time{} // nobody is there to offer anything to
	case o.waiting.IsZero():
		o.waiting = now
	case now.Sub(o.waiting) > o.Patience:
		o.open = true
		o.Log.Warn("the kubelet does not say which devices pods have; offer them without: those of pods may change pools",
			"waited", now.Sub(o.waiting), "err", err)
	}
}

// offered leaves out pools that never had a device: a node that matches nothing serves nothing.
func (o *Offer) offered(all []plugin.Resource) []plugin.Resource {
	var some []plugin.Resource
	for _, r := range all {
		if len(r.Devices) > 0 {
			o.served[r.Name] = true
		}
		if o.served[r.Name] {
			some = append(some, r)
		}
	}
	return some
}
