// Package offer keeps what the kubelet is offered in step with the configuration, the node's devices, and what pods have:
// a change of any of them is one round, from the inventory through the pools to the kubelet.
package offer

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

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
	// Grace is how long a device that is gone stays in the kubelet's list, as unhealthy, though no pod has it; default
	// 2 min. VFs that are made anew within it leave no gap.
	Grace time.Duration

	recent   recent
	profiles inventory.Profiles

	// What only the goroutine of Run uses.
	last   map[string]member // by id: the devices of the last round
	served map[string]bool   // resources that had a device once
	held   map[string]string

	mu     sync.Mutex
	status Status
}

// A member is a device in a pool.
type member struct {
	resource string
	device   plugin.Device
	gone     time.Time // zero: it is there
}

// Status is what Run did so far.
type Status struct {
	Generation int    // of the configuration; 0: none is in force
	ConfigFile string // where it is
	Problem    string // with the configuration as it is now; empty: none
	Scanned    bool   // the inventory has been taken
	Resources  []plugin.Resource
}

// Status reports on the last round.
func (o *Offer) Status() Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.status
}

// Allocated is to be told of each allocation: see plugin.Config.
func (o *Offer) Allocated(resource string, ids []string, _ time.Duration, err error) {
	if err == nil {
		o.recent.note(resource, ids)
	}
}

// Run goes its rounds until ctx ends.
func (o *Offer) Run(ctx context.Context) {
	if o.Look == 0 {
		o.Look = 2 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 2 * time.Minute
	}
	o.profiles.Log = o.Log
	o.last, o.served = map[string]member{}, map[string]bool{}
	o.refresh(false)
	ticker := time.NewTicker(o.Look)
	defer ticker.Stop()
	for looks := 0; ; looks++ {
		round := false
		select {
		case <-ctx.Done():
			return
		case <-o.Inventory.Changed():
			round = true
		case <-o.Reload:
			o.Log.Info("read the configuration again, as asked")
			round = o.refresh(true)
		case <-ticker.C:
			round = o.refresh(false) || looks%5 == 0
		}
		if round {
			o.round(ctx)
		}
	}
}

func (o *Offer) refresh(force bool) bool {
	changed := o.Config.refresh(o.Log, force)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Generation, o.status.ConfigFile, o.status.Problem = o.Config.generation, o.Config.file, ""
	if o.Config.problem != nil {
		o.status.Problem = o.Config.problem.Error()
	}
	return changed
}

func (o *Offer) round(ctx context.Context) {
	devices, scanned := o.Inventory.Devices()
	if !scanned || o.Config.inForce == nil {
		return
	}
	if o.Config.inForce.AsksForDDP() {
		devices = o.profiles.Fill(devices)
	}
	resources := o.assign(o.Config.inForce, devices, o.ask(ctx), time.Now())
	o.Set.Update(ctx, resources)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status.Scanned, o.status.Resources = true, resources
}

// ask reads what pods have. A kubelet that does not answer has given nothing since it last did.
func (o *Offer) ask(ctx context.Context) map[string]string {
	if o.Holder != nil {
		held, err := o.Holder.Held(ctx)
		if err == nil {
			o.held = held
		} else {
			o.Log.Debug("pods' devices are not known anew", "err", err)
		}
	}
	return o.recent.over(o.held)
}

// assign makes the resources of a round.
func (o *Offer) assign(c *pool.Config, devices []*inventory.Device, held map[string]string, now time.Time) []plugin.Resource {
	resources := make([]plugin.Resource, len(c.Pools))
	index := make(map[string]int, len(c.Pools))
	for i := range c.Pools {
		p := &c.Pools[i]
		resources[i] = plugin.Resource{
			Name: p.Resource, ExcludeTopology: p.ExcludeTopology, Spread: p.Spread, AdditionalInfo: p.AdditionalInfo,
		}
		index[p.Resource] = i
	}
	members := o.present(c, devices, held)
	o.keepGone(members, devices, index, held, now)
	for _, m := range members {
		i := index[m.resource]
		resources[i].Devices = append(resources[i].Devices, m.device)
		o.served[m.resource] = true
	}
	o.last = members
	// A pool without a device is not offered before it has one: a node that matches nothing serves nothing.
	resources = slices.DeleteFunc(resources, func(r plugin.Resource) bool { return !o.served[r.Name] })
	for i := range resources {
		slices.SortFunc(resources[i].Devices, func(a, b plugin.Device) int { return strings.Compare(a.ID, b.ID) })
	}
	return resources
}

// present gives the devices that there are to their pools.
func (o *Offer) present(c *pool.Config, devices []*inventory.Device, held map[string]string) map[string]member {
	candidates := make([]*pool.Device, len(devices))
	for i, d := range devices {
		candidates[i] = &d.Device
	}
	members := map[string]member{}
	for i, p := range pool.Assign(c, candidates, held) {
		if p < 0 {
			continue
		}
		pl, d := &c.Pools[p], devices[i]
		m := member{resource: pl.Resource, device: plugin.Device{ID: d.ID, Unhealthy: unhealthyIn(pl, d), NUMANode: d.NUMANode, PF: d.PF}}
		if s := pl.Selector(&d.Device); s != nil {
			m.device.RDMA, m.device.VhostNet = s.IsRDMA, s.NeedVhostNet
		} else if was := o.last[d.ID]; was.resource == m.resource {
			m.device.RDMA, m.device.VhostNet = was.device.RDMA, was.device.VhostNet
		}
		members[d.ID] = m
	}
	return members
}

// keepGone adds the devices that are no longer there, as unhealthy: as long as a pod has them, and otherwise for a while.
func (o *Offer) keepGone(members map[string]member, devices []*inventory.Device, pools map[string]int, held map[string]string, now time.Time) {
	here := make(map[string]bool, len(devices)) // not only the members: a pool may have stopped taking a device
	for _, d := range devices {
		here[d.ID] = true
	}
	for id, m := range o.last {
		if _, offered := pools[m.resource]; here[id] || !offered {
			continue
		}
		if m.gone.IsZero() {
			m.gone = now
		}
		if held[id] == m.resource || now.Sub(m.gone) < o.Grace {
			m.device.Unhealthy = "it is gone from the PCI bus"
			members[id] = m
		}
	}
}
