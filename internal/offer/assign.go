package offer

import (
	"slices"
	"strings"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// A member is a device in a pool.
type member struct {
	resource string
	device   plugin.Device
	gone     time.Time // zero: it is there
}

// assign makes the resources of a round, one for each pool.
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
	}
	o.last = members
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
		m := member{resource: pl.Resource, device: plugin.Device{ID: d.ID, Unhealthy: d.UnhealthyIn(pl), NUMANode: d.NUMANode, PF: d.PF}}
		if s := pl.Selector(&d.Device); s != nil {
			m.device.Needs = plugin.Needs{RDMA: s.IsRDMA, VhostNet: s.NeedVhostNet, VDPA: s.VDPAType}
		} else if was := o.last[d.ID]; was.resource == m.resource {
			m.device.Needs = was.device.Needs
		}
		members[d.ID] = m
	}
	return members
}

// keepGone adds the devices that are no longer there, as unhealthy: as long as a pod has them, be it from before this
// program started, and otherwise for a while.
func (o *Offer) keepGone(members map[string]member, devices []*inventory.Device, pools map[string]int, held map[string]string, now time.Time) {
	here := make(map[string]bool, len(devices)) // not only the members: a pool may have stopped taking a device
	for _, d := range devices {
		here[d.ID] = true
	}
	keep := func(id string, m member) {
		if _, offered := pools[m.resource]; here[id] || !offered {
			return
		}
		if m.gone.IsZero() {
			m.gone = now
		}
		if held[id] == m.resource || now.Sub(m.gone) < o.Grace {
			m.device.Unhealthy = "it is gone from the PCI bus"
			members[id] = m
		}
	}
	for id, m := range o.last {
		keep(id, m)
	}
	for id, resource := range held {
		if _, known := o.last[id]; !known {
			keep(id, member{resource: resource, device: plugin.Device{ID: id, NUMANode: -1}})
		}
	}
}
