// Package inventory follows what a node has to offer: PCI functions, what their interfaces mean to the node, and their
// health. It puts together what pkg/pci and internal/netlinks see, and remembers what they cannot see any more, because
// the device is in a pod.
package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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

// A memory is what was seen of a device that may be in a pod now, or between two drivers.
type memory struct {
	driver   string
	linkType string
	rdma     bool
	pKey     string
}

// A viewer makes devices of what was scanned. It has the memory, so it serves one Inventory only.
type viewer struct {
	devices map[pci.Address]memory
	pfNames map[pci.Address][]string
	wasVF   map[pci.Address]bool // in the last view that was believed
}

func newViewer() *viewer {
	return &viewer{devices: map[pci.Address]memory{}, pfNames: map[pci.Address][]string{}, wasVF: map[pci.Address]bool{}}
}

// view describes every device of the snapshot, in its order. odd are the functions that changed while they were looked at:
// an interface of theirs is not among links, or they were VFs and have lost their PF, which the kernel takes from them
// shortly before it removes them.
func (v *viewer) view(s *pci.Snapshot, links map[int]netlinks.NodeLink) (devices []*Device, odd []pci.Address) {
	for _, d := range s.Devices() {
		if d.IsPF() {
			v.notePF(d, links)
		}
	}
	devices = make([]*Device, 0, len(s.Devices()))
	for _, d := range s.Devices() {
		if isOdd := v.wasVF[d.Address] && !d.IsVF() || slices.ContainsFunc(d.Netdevs, func(n pci.Netdev) bool {
			_, ok := links[n.Index]
			return !ok
		}); isOdd {
			odd = append(odd, d.Address)
		}
		devices = append(devices, v.device(s, d, links))
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
func (v *viewer) settle(s *pci.Snapshot) {
	clear(v.wasVF)
	for _, d := range s.Devices() {
		if d.IsVF() {
			v.wasVF[d.Address] = true
		}
	}
	for a := range v.devices {
		if s.Device(a) == nil {
			delete(v.devices, a)
		}
	}
	for a := range v.pfNames {
		if s.Device(a) == nil {
			delete(v.pfNames, a)
		}
	}
}

func (v *viewer) device(s *pci.Snapshot, d *pci.Device, links map[int]netlinks.NodeLink) *Device {
	device := &Device{Device: pool.Device{
		ID: d.Address.String(), Type: pool.NetDevice, Vendor: d.Vendor, Product: d.Product, Driver: d.Driver, ACPI: d.ACPIIndex,
		Index: d.VFIndex, NUMANode: d.NUMANode, LinkType: linkType(d.Netdevs), RDMA: len(d.RDMA) > 0,
		PKey: d.PKey,
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
	v.recall(d, device)
	device.Reserved = reserved(d, links)
	device.Addressed = addressed(d, links)
	if device.Unhealthy == "" {
		device.Unhealthy = unhealthy(d, pf)
	}
	return device
}

// recall fills in what cannot be seen of a device without its interface or its driver, if it was seen before.
func (v *viewer) recall(d *pci.Device, device *Device) {
	was, known := v.devices[d.Address]
	switch {
	case known && d.Driver == "":
		// It stays in its pool, for the kubelet to see it unhealthy and well again; with another driver it is another device.
		device.Driver, device.LinkType, device.RDMA, device.PKey = was.driver, was.linkType, was.rdma, was.pKey
		device.Unhealthy = "no driver is bound to it; " + was.driver + " was"
		return
	case known && len(d.Netdevs) == 0 && d.Driver == was.driver:
		device.RDMA = device.RDMA || was.rdma
		device.LinkType, device.PKey = cmp.Or(device.LinkType, was.linkType), cmp.Or(device.PKey, was.pKey)
	}
	if d.Driver != "" {
		v.devices[d.Address] = memory{driver: device.Driver, linkType: device.LinkType, rdma: device.RDMA, pKey: device.PKey}
	}
}

func linkType(netdevs []pci.Netdev) string {
	const ether, infiniband = 1, 32 // ARPHRD_…
	for _, n := range netdevs {
		switch n.Type {
		case ether:
			return "ether"
		case infiniband:
			return "infiniband"
		}
	}
	return ""
}

func isDown(pf *pci.Device, links map[int]netlinks.NodeLink) bool {
	uplink, ok := pf.Uplink()
	return ok && !links[uplink.Index].Up
}

// reserved says why no pool may offer the device; empty: pools may.
func reserved(d *pci.Device, links map[int]netlinks.NodeLink) string {
	if len(d.VFs) > 0 {
		return fmt.Sprintf("it is a PF with %d VFs, which are offered in its place", len(d.VFs))
	}
	for _, n := range d.Netdevs {
		link, ok := links[n.Index]
		switch {
		case !ok:
			return n.Name + " is not among the node's links: does this run in the node's network namespace?"
		case link.Uplink != "":
			return n.Name + " carries the node's own traffic: " + link.Uplink
		}
	}
	return ""
}

func addressed(d *pci.Device, links map[int]netlinks.NodeLink) string {
	for _, n := range d.Netdevs {
		if why := links[n.Index].Addressed; why != "" {
			return n.Name + " is in use by the node: " + why
		}
	}
	return ""
}

func unhealthy(d, pf *pci.Device) string {
	switch {
	case d.IsVF() && pf == nil:
		return "its PF " + d.PF.String() + " is gone"
	case d.Driver == "":
		return "no driver is bound to it"
	case strings.Contains(d.Driver, "vfio") && !d.VFIO:
		return "its driver is " + d.Driver + ", but it has no vfio node: see whether the IOMMU is on"
	}
	return ""
}
