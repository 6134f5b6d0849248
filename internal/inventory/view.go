// Package inventory follows what a node has to offer: PCI functions, what their interfaces mean to the node, and their
// health. It puts together what pkg/pci and internal/netlinks see, and remembers what they cannot see any more, because
// the device is in a pod.
package inventory

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// A Device is what pools ask about a device, and its health.
type Device struct {
	pool.Device
	// Unhealthy says why nobody can use the device; empty: somebody can.
	Unhealthy string
	// PFDown says that the PF of a VF has no carrier: unhealthy in the pools that want to know.
	PFDown bool
}

// UnhealthyIn says why nobody could use the device now, as a pool sees it; empty: somebody could. With no pool (nil) it is
// what every pool sees.
func (d *Device) UnhealthyIn(p *pool.Pool) string {
	if d.Unhealthy == "" && p != nil && p.PFLink && d.PFDown {
		return "its PF has no carrier"
	}
	return d.Unhealthy
}

// A memory is what was seen of a device that may be in a pod now, or between two drivers.
type memory struct {
	driver   string // its own; a subfunction's, not that of the function below it
	linkType string
	rdma     bool
	pKey     string
	vdpaType string
}

// A viewer makes devices of what was scanned. It has the memory, so it serves one Inventory only.
type viewer struct {
	devices map[string]memory // by id
	pfNames map[pci.Address][]string
	uplinks uplinks
	divided divided
	now     func() time.Time

	shown    viewed // the last view that was settled: what did not change since then is not described anew
	next     viewed // the last view
	believed []seen // the functions of shown
	spare    []seen // of one that is past: the memory for the next
	restless []int  // where in believed those are that each view has to describe anew
	parted   bool   // there are subfunctions among them
	touched  []int  // interfaces that changed since then, sorted: the functions that have them are described anew
	dropped  bool   // there may be memories of devices that are gone
	// owners are the functions by the indexes of the interfaces that they had when they were described.
	owners map[int]pci.Address
}

// A viewed is what a snapshot was described as.
type viewed struct {
	snapshot *pci.Snapshot
	devices  []*Device
	all      []seen       // its functions; nil: few of them are not as they were
	few      map[int]seen // and these are they, by where they are in believed
}

// A seen is one function of a snapshot, and what it was described as. A look goes through thousands of them, so they are one
// piece of memory, and what did not change is told by pointers alone.
type seen struct {
	function *pci.Device
	pf       *pci.Device // nil: it has none
	device   *Device     // the function
	subs     []*Device   // its subfunctions
	was      *pci.Device // the function at its address in the view before, if that has to be described anew
	again    bool        // it has to be
}

func newViewer() *viewer {
	return &viewer{
		devices: map[string]memory{}, pfNames: map[pci.Address][]string{}, uplinks: uplinks{}, divided: divided{}, now: time.Now,
		owners: map[int]pci.Address{},
	}
}

// view describes every device of the snapshot, in its order, each function's subfunctions after it. A device that is as it was
// in the last view that was settled is the same *Device. odd are the functions that changed while they were looked at: an
// interface of theirs is not among links, or they were VFs and have lost their PF, which the kernel takes from them shortly
// before it removes them.
func (v *viewer) view(s *pci.Snapshot, links map[int]netlinks.NodeLink) (devices []*Device, odd []pci.Address) {
	if few, ok := v.few(s); ok {
		return v.viewFew(s, few, links)
	}
	all, stale := v.match(s)
	for i := range all {
		if e := &all[i]; e.again && (e.function.IsPF() || len(e.function.Subfunctions) > 0) {
			v.notePF(e.function, links)
		}
	}
	devices = make([]*Device, 0, len(v.believed)+len(v.believed)/8)
	for i := range all {
		e := &all[i]
		e.again = e.again || len(stale) > 0 && slices.Contains(stale, e.pf)
		if e.again && v.describe(e, s, links) {
			odd = append(odd, e.function.Address)
		}
		devices = append(append(devices, e.device), e.subs...)
	}
	v.spare, v.dropped = all, v.dropped || len(odd) > 0
	v.next = viewed{snapshot: s, devices: devices, all: all}
	return devices, odd
}

// match finds what of the snapshot is as it was, and the functions that are no more, or not as they were, nor their port's
// interface: what was said of their VFs does not hold either.
func (v *viewer) match(s *pci.Snapshot) (all []seen, stale []*pci.Device) {
	all = v.spare[:0]
	old, touched := v.believed, v.touchedFunctions(s)
	for _, d := range s.Devices() {
		for len(old) > 0 && old[0].function != d && old[0].function.Address.Compare(d.Address) < 0 {
			stale, old, v.dropped = append(stale, old[0].function), old[1:], true
		}
		if len(old) == 0 || old[0].function != d && old[0].function.Address != d.Address {
			all = append(all, seen{function: d, again: true})
			continue
		}
		e := old[0]
		old = old[1:]
		if was := e.function; was != d {
			stale, v.dropped = append(stale, was), v.dropped || len(e.subs) > 0
			e.function, e.was, e.again = d, was, true
		} else if slices.Contains(touched, d) {
			if uplink, ok := d.Uplink(); ok && v.isTouched(uplink) {
				stale = append(stale, d)
			}
			e.again = true
		}
		all = append(all, e)
	}
	for i := range old {
		stale, v.dropped = append(stale, old[i].function), true
	}
	return all, stale
}

// touch notes that interfaces changed.
func (v *viewer) touch(indexes ...int) {
	v.touched = append(v.touched, indexes...)
	slices.Sort(v.touched)
	v.touched = slices.Compact(v.touched)
}

func (v *viewer) isTouched(n pci.Netdev) bool {
	_, touched := slices.BinarySearch(v.touched, n.Index)
	return touched
}

// touchedFunctions are those that have an interface that changed, or had it.
func (v *viewer) touchedFunctions(s *pci.Snapshot) (functions []*pci.Device) {
	for _, index := range v.touched {
		if a, known := v.owners[index]; known {
			functions = append(functions, s.Device(a))
		}
	}
	return functions
}

// describe makes the devices of a function, and reports whether it is odd: see view.
func (v *viewer) describe(e *seen, s *pci.Snapshot, links map[int]netlinks.NodeLink) (odd bool) {
	d := e.function
	odd = e.was != nil && e.was.IsVF() && !d.IsVF()
	own := func(netdevs []pci.Netdev) {
		for _, n := range netdevs {
			v.owners[n.Index] = d.Address
			_, known := links[n.Index]
			odd = odd || !known
		}
	}
	own(functionNetdevs(d))
	e.pf = s.PF(d)
	device := v.function(e.pf, d, links)
	e.again = v.isProvisional(device.ID) || d.IsVF() && e.pf == nil
	e.device = unlessSame(e.device, device)
	before := e.subs
	e.subs = nil
	for i := range d.Subfunctions {
		sf := &d.Subfunctions[i]
		own(subfunctionNetdevs(sf))
		device := v.subfunction(d, sf, links)
		e.again = e.again || v.isProvisional(device.ID)
		if i < len(before) {
			device = unlessSame(before[i], device)
		}
		e.subs = append(e.subs, device)
	}
	e.again, e.was = e.again || odd, nil
	return odd
}

// unlessSame gives the old one if nothing about it is new.
func unlessSame(old, now *Device) *Device {
	if reflect.DeepEqual(old, now) {
		return old
	}
	return now
}

// isProvisional reports whether something is said of a device that holds for a time only: that an interface of its has carried
// the node's traffic, or that it has been divided.
func (v *viewer) isProvisional(id string) bool {
	last, wasDivided := v.divided[id]
	was, wasUplink := v.uplinks[id]
	return wasDivided && !last.IsZero() || wasUplink && !was.now
}

// hasProvisional reports whether any device of the view that was settled last is provisional.
func (v *viewer) hasProvisional() bool {
	return slices.ContainsFunc(v.restless, func(k int) bool {
		e := &v.believed[k]
		return v.isProvisional(e.device.ID) || slices.ContainsFunc(e.subs, func(d *Device) bool { return v.isProvisional(d.ID) })
	})
}

// notePF keeps a PF's names while its interface is not to be seen, so that its VFs do not change pools.
func (v *viewer) notePF(d *pci.Device, links map[int]netlinks.NodeLink) {
	uplink, ok := d.Uplink()
	if !ok {
		return
	}
	v.pfNames[d.Address] = append([]string{uplink.Name}, links[uplink.Index].AltNames...)
}

// settle is to be called when the devices of the last view are believed.
func (v *viewer) settle() {
	v.touched, v.restless = v.touched[:0], v.restless[:0]
	if v.next.all != nil {
		v.believed, v.spare, v.parted = v.next.all, v.believed, false
		for k := range v.believed {
			v.parted = v.parted || len(v.believed[k].subs) > 0
			if v.believed[k].again {
				v.restless = append(v.restless, k)
			}
		}
	}
	for k, e := range v.next.few {
		v.believed[k] = e
		if e.again {
			v.restless = append(v.restless, k)
		}
	}
	v.shown = viewed{snapshot: v.next.snapshot, devices: v.next.devices}
	v.next = viewed{}
	if v.dropped {
		v.forget()
	}
}

// forget drops the memories of devices that are gone.
func (v *viewer) forget() {
	v.dropped = false
	here, functions := map[string]bool{}, map[pci.Address]bool{}
	for i := range v.believed {
		e := &v.believed[i]
		functions[e.function.Address] = true
		here[e.device.ID] = true
		for _, d := range e.subs {
			here[d.ID] = true
		}
	}
	maps.DeleteFunc(v.devices, func(id string, _ memory) bool { return !here[id] })
	maps.DeleteFunc(v.owners, func(_ int, a pci.Address) bool { return !functions[a] })
	maps.DeleteFunc(v.pfNames, func(a pci.Address, _ []string) bool { return !functions[a] })
}

// function describes a PCI function; pf is its PF, if that is there.
func (v *viewer) function(pf, d *pci.Device, links map[int]netlinks.NodeLink) *Device {
	device := &Device{Device: pool.Device{
		ID: d.Address.String(), Type: pool.NetDevice, Vendor: d.Vendor, Product: d.Product, Driver: d.Driver, ACPI: d.ACPIIndex,
		Index: d.VFIndex, NUMANode: d.NUMANode, LinkType: linkType(d.Netdevs), RDMA: len(d.RDMA) > 0,
		PKey: d.PKey, VDPAType: vdpaType(d.VDPA),
	}}
	if d.BaseClass() == pci.ClassAccelerator {
		device.Type = pool.Accelerator
	}
	if d.IsVF() {
		device.PF, device.PFNames = d.PF.String(), v.pfNames[d.PF]
		if pf != nil && device.LinkType == "" {
			device.LinkType = linkType(pf.Netdevs)
		}
		device.PFDown = pf != nil && isDown(pf, links)
	}
	netdevs := functionNetdevs(d)
	v.recall(device, d.Driver, len(netdevs) > 0, d.VDPA)
	if device.Driver == "" {
		device.Driver = v.devices[device.ID].driver
	}
	device.Reserved = cmp.Or(v.divided.replaced(device.ID, d, v.now()), v.uplinks.reserved(device.ID, d.Driver, netdevs, links, v.now()))
	device.Addressed = addressed(netdevs, links)
	device.Unhealthy = cmp.Or(device.Unhealthy, unhealthy(d, pf))
	return device
}

// subfunction describes a subfunction of d: to pools, d is its PF.
func (v *viewer) subfunction(d *pci.Device, sf *pci.Subfunction, links map[int]netlinks.NodeLink) *Device {
	netdevs := subfunctionNetdevs(sf)
	device := &Device{
		Device: pool.Device{
			ID: sf.Name, Type: pool.AuxNetDevice, AuxType: pci.TypeSF, Vendor: d.Vendor, Product: d.Product, Driver: d.Driver,
			PF: d.Address.String(), PFNames: v.pfNames[d.Address], Index: sf.Number, NUMANode: d.NUMANode,
			LinkType: cmp.Or(linkType(sf.Netdevs), linkType(d.Netdevs)), RDMA: len(sf.RDMA) > 0, VDPAType: vdpaType(sf.VDPA),
			Reserved: v.uplinks.reserved(sf.Name, sf.Driver, netdevs, links, v.now()), Addressed: addressed(netdevs, links),
		},
		PFDown: isDown(d, links),
	}
	v.recall(device, sf.Driver, len(netdevs) > 0, sf.VDPA)
	if device.Unhealthy == "" && sf.Driver == "" {
		device.Unhealthy = "no driver is bound to it"
	}
	return device
}

// recall fills in what cannot be seen of a device without its interface or its driver, if it was seen before. It stays in
// its pool so, for the kubelet to see it unhealthy and well again; with another driver it is another device.
func (v *viewer) recall(device *Device, driver string, hasNetdev bool, vdpa *pci.VDPA) {
	was, known := v.devices[device.ID]
	switch {
	case known && driver == "":
		device.LinkType, device.RDMA, device.PKey, device.VDPAType = was.linkType, was.rdma, was.pKey, was.vdpaType
		device.Unhealthy = "no driver is bound to it; " + was.driver + " was"
		return
	case known && driver == was.driver && !hasNetdev:
		device.RDMA = device.RDMA || was.rdma
		device.LinkType, device.PKey = cmp.Or(device.LinkType, was.linkType), cmp.Or(device.PKey, was.pKey)
	}
	if known && driver == was.driver && vdpa != nil && device.VDPAType == "" && was.vdpaType != "" {
		device.VDPAType = was.vdpaType
		device.Unhealthy = "no driver is bound to its vDPA device; " + was.vdpaType + "_vdpa was"
	}
	if driver != "" {
		v.devices[device.ID] = memory{driver, device.LinkType, device.RDMA, device.PKey, device.VDPAType}
	}
}
