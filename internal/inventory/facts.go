package inventory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// functionNetdevs are the interfaces by which the node may use a function: its own, and that of its vDPA device.
func functionNetdevs(d *pci.Device) []pci.Netdev { return withVDPA(d.Netdevs, d.VDPA) }

func subfunctionNetdevs(sf *pci.Subfunction) []pci.Netdev { return withVDPA(sf.Netdevs, sf.VDPA) }

func withVDPA(netdevs []pci.Netdev, v *pci.VDPA) []pci.Netdev {
	if v == nil || len(v.Netdevs) == 0 {
		return netdevs
	}
	return slices.Concat(netdevs, v.Netdevs)
}

// vdpaType is what configurations call the driver of a vDPA device.
func vdpaType(v *pci.VDPA) string {
	if v == nil {
		return ""
	}
	switch v.Driver {
	case "vhost_vdpa":
		return "vhost"
	case "virtio_vdpa":
		return "virtio"
	}
	return ""
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

// replaced says that a function is divided, and its parts are offered; empty: it is whole.
func replaced(d *pci.Device) string {
	switch {
	case len(d.VFs) > 0:
		return fmt.Sprintf("it is a PF with %d VFs, which are offered in its place", len(d.VFs))
	case len(d.Subfunctions) > 0:
		return fmt.Sprintf("it has %d subfunctions, which are offered in its place", len(d.Subfunctions))
	}
	return ""
}

// divided remembers since when functions are not divided any more that were, by device id; zero: they are. VFs are often remade: a pool that selects by vendor must
// not offer the whole PF in between.
type divided map[string]time.Time

// whole is how long a function has to be undivided before it is offered. Its parts stay in the kubelet's list as long.
const whole = 2 * time.Minute

func (v divided) replaced(id string, d *pci.Device, now time.Time) string {
	why := replaced(d)
	if why != "" {
		v[id] = time.Time{}
		return why
	}
	since, ok := v[id]
	switch {
	case ok && since.IsZero():
		v[id] = now
	case !ok || now.Sub(since) >= whole:
		delete(v, id)
		return ""
	}
	return "its VFs or subfunctions have just gone, and may be made anew"
}

// reserved says why no pool may offer a device with these interfaces; empty: pools may.
func reserved(netdevs []pci.Netdev, links map[int]netlinks.NodeLink) string {
	for _, n := range netdevs {
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

func addressed(netdevs []pci.Netdev, links map[int]netlinks.NodeLink) string {
	for _, n := range netdevs {
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
