package offer

import (
	"maps"
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

// A sorting is what the last round made of devices, and of what else it looked at.
type sorting struct {
	config    *pool.Config
	devices   []*inventory.Device
	held      map[string]string
	members   map[string]member // by id
	gone      bool              // some of them are no longer there
	resources []plugin.Resource // one for each pool; each round makes anew what it changes
	matched   int               // how many devices it compared with the pools
}

// fewChanges is where sorting everything is no more work than sorting devices in one by one.
const fewChanges = 64

// assign makes the resources of a round, one for each pool. Where only some devices changed since the last one, only they are
// compared with the pools.
func (o *Offer) assign(c *pool.Config, devices []*inventory.Device, held map[string]string, now time.Time) []plugin.Resource {
	last := o.last
	if changed, ok := last.changed(c, devices, held); ok {
		o.last.devices, o.last.matched = devices, len(changed)
		if len(changed) > 0 {
			o.last.resources = slices.Clone(last.resources)
		}
		for _, d := range changed {
			o.sortIn(d)
		}
		return o.last.resources
	}
	members := o.present(c, devices, held) // which looks at the last round
	o.last = sorting{config: c, devices: devices, held: held, members: members, matched: len(devices)}
	o.last.resources = make([]plugin.Resource, len(c.Pools))
	index := make(map[string]int, len(c.Pools))
	for i := range c.Pools {
		p := &c.Pools[i]
		o.last.resources[i] = plugin.Resource{
			Name: p.Resource, ExcludeTopology: p.ExcludeTopology, Spread: p.Spread, AdditionalInfo: p.AdditionalInfo,
		}
		index[p.Resource] = i
	}
	o.keepGone(last.members, index, now)
	for _, m := range o.last.members {
		r := &o.last.resources[index[m.resource]]
		r.Devices = append(r.Devices, m.device)
		o.last.gone = o.last.gone || !m.gone.IsZero()
	}
	for i := range o.last.resources {
		slices.SortFunc(o.last.resources[i].Devices, byID)
	}
	return o.last.resources
}

func byID(a, b plugin.Device) int { return strings.Compare(a.ID, b.ID) }

// changed are the devices that are not as they were; false if more than a few of them make a difference.
func (s *sorting) changed(c *pool.Config, devices []*inventory.Device, held map[string]string) (changed []*inventory.Device, ok bool) {
	if c != s.config || s.gone || len(devices) != len(s.devices) || !maps.Equal(held, s.held) {
		return nil, false
	}
	for i, d := range devices {
		switch was := s.devices[i]; {
		case d == was:
		case d.ID != was.ID || len(changed) == fewChanges:
			return nil, false
		default:
			changed = append(changed, d)
		}
	}
	return changed, true
}

// sortIn takes a device out of the pool that it was in, and puts it into the one where it belongs now.
func (o *Offer) sortIn(d *inventory.Device) {
	now, belongs := o.member(o.last.config, d, pool.Assign(o.last.config, []*pool.Device{&d.Device}, o.last.held)[0])
	was, known := o.last.members[d.ID]
	if known == belongs && now == was {
		return
	}
	devicesOf := func(resource string) (devices *[]plugin.Device, at int, found bool) {
		i := slices.IndexFunc(o.last.resources, func(r plugin.Resource) bool { return r.Name == resource })
		devices = &o.last.resources[i].Devices
		*devices = slices.Clone(*devices) // whoever was told of the last round has the other
		at, found = slices.BinarySearchFunc(*devices, plugin.Device{ID: d.ID}, byID)
		return devices, at, found
	}
	if known {
		if devices, at, found := devicesOf(was.resource); found {
			*devices = slices.Delete(*devices, at, at+1)
		}
		delete(o.last.members, d.ID)
	}
	if belongs {
		devices, at, _ := devicesOf(now.resource)
		*devices = slices.Insert(*devices, at, now.device)
		o.last.members[d.ID] = now
	}
}

// present gives the devices that there are to their pools.
func (o *Offer) present(c *pool.Config, devices []*inventory.Device, held map[string]string) map[string]member {
	candidates := make([]*pool.Device, len(devices))
	for i, d := range devices {
		candidates[i] = &d.Device
	}
	members := map[string]member{}
	for i, p := range pool.Assign(c, candidates, held) {
		if m, ok := o.member(c, devices[i], p); ok {
			members[devices[i].ID] = m
		}
	}
	return members
}

// member is a device in the pool with this index; false if it is in none.
func (o *Offer) member(c *pool.Config, d *inventory.Device, index int) (m member, ok bool) {
	if index < 0 {
		return member{}, false
	}
	p := &c.Pools[index]
	m = member{resource: p.Resource, device: plugin.Device{ID: d.ID, Unhealthy: d.UnhealthyIn(p), NUMANode: d.NUMANode, PF: d.PF}}
	if s := p.Selector(&d.Device); s != nil {
		m.device.Needs = plugin.Needs{RDMA: s.IsRDMA, VhostNet: s.NeedVhostNet, VDPA: s.VDPAType}
	} else if was := o.last.members[d.ID]; was.resource == m.resource {
		m.device.Needs = was.device.Needs
	}
	return m, true
}

// keepGone adds the devices that are no longer there, as unhealthy: as long as a pod has them, be it from before this
// program started, and otherwise for a while.
func (o *Offer) keepGone(before map[string]member, pools map[string]int, now time.Time) {
	here := make(map[string]bool, len(o.last.devices)) // not only the members: a pool may have stopped taking a device
	for _, d := range o.last.devices {
		here[d.ID] = true
	}
	keep := func(id string, m member) {
		if _, offered := pools[m.resource]; here[id] || !offered {
			return
		}
		if m.gone.IsZero() {
			m.gone = now
		}
		if o.last.held[id] == m.resource || now.Sub(m.gone) < o.Grace {
			m.device.Unhealthy = "it is gone from the PCI bus"
			o.last.members[id] = m
		}
	}
	for id, m := range before {
		keep(id, m)
	}
	for id, resource := range o.last.held {
		if _, known := before[id]; !known {
			keep(id, member{resource: resource, device: plugin.Device{ID: id, NUMANode: -1}})
		}
	}
}
