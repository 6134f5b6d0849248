package plugin

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// A part is a device as it is now: a PCI function, or a subfunction of one.
type part struct {
	function *pci.Device
	sf       *pci.Subfunction // nil: it is the function
	nodes    pci.Nodes
	vdpa     *pci.VDPA
	// representor is the interface on the node that stands for the device in a switch; empty: there is none.
	representor string
}

// find reads a device, by its PCI address or its subfunction's name.
func find(root, id string) (*part, error) {
	address, err := pci.ParseAddress(id)
	if err != nil {
		function, sf, sfErr := pci.ReadSubfunction(root, id)
		if sfErr != nil {
			return nil, sfErr
		}
		p := &part{function: function, sf: sf, nodes: pci.ReadSubfunctionNodes(root, id), vdpa: sf.VDPA}
		if n, ok := function.SubfunctionRepresentor(sf.Number); ok {
			p.representor = n.Name
		}
		return p, nil
	}
	function, err := pci.Read(root, address)
	if err != nil {
		return nil, err
	}
	p := &part{function: function, nodes: pci.ReadNodes(root, address), vdpa: function.VDPA}
	if function.IsVF() {
		pf, err := pci.Read(root, function.PF)
		if err != nil {
			return nil, fmt.Errorf("look at its PF: %w", err)
		}
		if n, ok := pf.Representor(function.VFIndex); ok {
			p.representor = n.Name
		}
	}
	return p, nil
}

// driver is the function's. A subfunction's own says nothing of nodes.
func (p *part) driver() string {
	if p.sf != nil {
		return ""
	}
	return p.function.Driver
}

func (a *allocation) addVFIO(p *part) error {
	v := p.nodes.VFIO
	if v == nil {
		if driver := p.driver(); strings.Contains(driver, "vfio") {
			return fmt.Errorf("its driver is %s, but it has no vfio node: see whether the IOMMU is on", driver)
		}
		return nil
	}
	about := map[string]string{}
	if v.Group != "" {
		a.mount(v.Container, v.Container)
		a.mount(v.Group, v.InContainer)
		about["mount"], about["dev-mount"] = v.Container, v.InContainer
	}
	if v.Device != "" && v.IOMMUFD != "" {
		a.mount(v.IOMMUFD, v.IOMMUFD)
		a.mount(v.Device, v.Device)
		about["iommufd-mount"], about["cdev-mount"] = v.IOMMUFD, v.Device
	}
	a.info["vfio"] = about
	return nil
}

func (a *allocation) addUIO(p *part) error {
	driver := p.driver()
	switch {
	case p.nodes.UIO != "":
		a.mount(p.nodes.UIO, p.nodes.UIO)
		a.info["uio"] = map[string]string{"mount": p.nodes.UIO}
	case driver == "igb_uio", driver == "uio_pci_generic":
		return fmt.Errorf("its driver is %s, but it has no uio node", driver)
	}
	return nil
}

func (a *allocation) addRDMA(nodes pci.Nodes) error {
	if len(nodes.RDMA) == 0 {
		return errors.New("its pool has isRdma, but it has no RDMA device: see whether the driver's RDMA module is loaded, and the device not in another network namespace")
	}
	about := map[string]string{}
	add := func(key, node string) {
		if node != "" {
			a.mount(node, node)
			about[key] = node
		}
	}
	for _, d := range nodes.RDMA {
		about["rdma_dev"] = d.Name
		add("uverbs", d.Verbs)
		add("umad", d.MAD)
		add("issm", d.Issuer)
	}
	add("rdma_cm", nodes.RDMACM)
	a.info["rdma"] = about
	return nil
}

const (
	vhostNode = "/dev/vhost-net"
	tunNode   = "/dev/net/tun"
)

// addVhost gives both nodes whether their modules are loaded or not, which is all that sysfs could say: udev makes the nodes
// at boot, and the kernel loads the modules when one is opened. On a node without them the runtime names the one it misses,
// and tries again.
func (a *allocation) addVhost() {
	a.mount(vhostNode, vhostNode)
	a.mount(tunNode, tunNode)
	a.info["vhost"] = map[string]string{"net-mount": vhostNode, "tun-mount": tunNode}
}

// addVDPA gives the node of a vDPA device. With virtio it has none, only an interface.
func (a *allocation) addVDPA(p *part, kind string) error {
	switch {
	case p.vdpa == nil:
		return fmt.Errorf("its pool has vdpaType %s, but it has no vDPA device: make one with vdpa dev add", kind)
	case kind == "vhost" && p.vdpa.Node == "":
		return fmt.Errorf("its pool has vdpaType vhost, but its vDPA device %s has no node: load the module vhost_vdpa", p.vdpa.Name)
	case kind == "vhost":
		a.mount(p.vdpa.Node, p.vdpa.Node)
		a.info["vdpa"] = map[string]string{"mount": p.vdpa.Node}
	}
	return nil
}

// extraInfo is what the pool says of all devices, and over it what it says of this one.
func extraInfo(all map[string]map[string]string, id string) map[string]string {
	extra := map[string]string{}
	maps.Copy(extra, all["*"])
	maps.Copy(extra, all[id])
	return extra
}

// info is the device's device-info, for a container with these needs; nil for a subfunction that is no vDPA device: the
// specification has no kind for it, and the function's address would stand for all of that.
func (p *part) info(needs Needs, vhost string) *devinfo.Info {
	address, pf := p.function.Address.String(), ""
	switch {
	case p.sf != nil:
		address, pf = "", address
	case p.function.IsVF():
		pf = p.function.PF.String()
	}
	if needs.VDPA != "" {
		return &devinfo.Info{Type: "vdpa", VDPA: &devinfo.VDPA{
			ParentDevice: p.vdpa.Name, Driver: needs.VDPA, Path: p.vdpa.Node, PCIAddress: address, PFAddress: pf,
			RepresentorDevice: p.representor,
		}}
	}
	if p.sf != nil {
		return nil
	}
	info := &devinfo.PCI{Address: address, PFAddress: pf, VhostNet: vhost, RepresentorDevice: p.representor}
	if needs.RDMA {
		info.RDMADevice = p.nodes.RDMA[0].Name
	}
	return &devinfo.Info{Type: "pci", PCI: info}
}
