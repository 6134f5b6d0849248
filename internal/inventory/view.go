// Package inventory follows what a node has to offer: PCI functions, what their interfaces mean to the node, and their
// health. It puts together what pkg/pci and internal/netlinks see, and remembers what they cannot see any more, because
// the device is in a pod.
package inventory

import (
	"cmp"
	"maps"
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
	wasVF   map[pci.Address]bool // in the last view that was believed
	uplinks uplinks
	divided divided
	now     func() time.Time
}

func newViewer() *viewer {
	return &viewer{
		devices: map[string]memory{}, pfNames: map[pci.Address][]string{}, wasVF: map[pci.Address]bool{}, uplinks: uplinks{}, divided: divided{},
		now: time.Now,
	}
}

// view describes every device of the snapshot, in its order, each function's subfunctions after it. odd are the functions
// that changed while they were looked at: an interface of theirs is not among links, or they were VFs and have lost their
// PF, which the kernel takes from them shortly before it removes them.
func (v *viewer) view(s *pci.Snapshot, links map[int]netlinks.NodeLink) (devices []*Device, odd []pci.Address) {
	for _, d := range s.Devices() {
		if d.IsPF() || len(d.Subfunctions) > 0 {
			v.notePF(d, links)
		}
	}
	unknown := func(n pci.Netdev) bool { _, ok := links[n.Index]; return !ok }
	devices = make([]*Device, 0, len(s.Devices()))
	for _, d := range s.Devices() {
		isOdd := v.wasVF[d.Address] && !d.IsVF() || slices.ContainsFunc(functionNetdevs(d), unknown)
		devices = append(devices, v.function(s, d, links))
		for i := range d.Subfunctions {
			sf := &d.Subfunctions[i]
			isOdd = isOdd || slices.ContainsFunc(subfunctionNetdevs(sf), unknown)
			devices = append(devices, v.subfunction(d, sf, links))
		}
		if isOdd {
			odd = append(odd, d.Address)
		}
	}
	return devices, odd
}

// notePF keeps a PF's names while its interface is not to be seen, so that its VFs do not change pools.
func (v *viewer) notePF(d *pci.Device, links map[int]netlinks.NodeLink) {
	uplink, ok := d.Uplink()
	if !ok {
		return
	}
	v.pfNames[d.Address] = append([]string{uplink.Name}, links[uplink.Index].AltNames...)
}

// settle is to be called when the devices of a view are believed.
func (v *viewer) settle(s *pci.Snapshot, devices []*Device) {
	clear(v.wasVF)
	for _, d := range s.Devices() {
		if d.IsVF() {
			v.wasVF[d.Address] = true
		}
	}
	here := make(map[string]bool, len(devices))
	for _, d := range devices {
		here[d.ID] = true
	}
	maps.DeleteFunc(v.devices, func(id string, _ memory) bool { return !here[id] })
	maps.DeleteFunc(v.pfNames, func(a pci.Address, _ []string) bool { return s.Device(a) == nil })
}

// function describes a PCI function.
func (v *viewer) function(s *pci.Snapshot, d *pci.Device, links map[int]netlinks.NodeLink) *Device {
	device := &Device{Device: pool.Device{
		ID: d.Address.String(), Type: pool.NetDevice, Vendor: d.Vendor, Product: d.Product, Driver: d.Driver, ACPI: d.ACPIIndex,
		Index: d.VFIndex, NUMANode: d.NUMANode, LinkType: linkType(d.Netdevs), RDMA: len(d.RDMA) > 0,
		PKey: d.PKey, VDPAType: vdpaType(d.VDPA),
	}}
	if d.BaseClass() == pci.ClassAccelerator {
		device.Type = pool.Accelerator
	}
	pf := s.PF(d)
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
