package pci

import (
	"strings"
)

// Nodes are the device nodes by which a process uses a function without its kernel interface: host paths, as the driver
// and the kernel have them now. Group numbers change with each boot and each rebinding, so ask when they are needed.
type Nodes struct {
	VFIO *VFIONodes
	UIO  string // /dev/uio0
	RDMA []RDMANodes
	// RDMACM is /dev/infiniband/rdma_cm, if there are RDMA devices and the kernel has it.
	RDMACM string
}

// VFIONodes are a function's nodes for vfio. At least one of Group and Device is set.
type VFIONodes struct {
	Container string // /dev/vfio/vfio, with Group
	Group     string // /dev/vfio/12
	// InContainer is where the group's node belongs in a container: in no-IOMMU mode the host calls it
	// /dev/vfio/noiommu-12, and users look for /dev/vfio/12.
	InContainer string
	Device      string // /dev/vfio/devices/vfio0, on kernels with iommufd
	IOMMUFD     string // /dev/iommu, with Device
}

// RDMANodes are the nodes of one RDMA device.
type RDMANodes struct {
	Name   string // mlx5_0
	Verbs  string // /dev/infiniband/uverbs0
	MAD    string // /dev/infiniband/umad0
	Issuer string // /dev/infiniband/issm0
}

// ReadNodes finds the nodes of the function at a. It reads sysfs alone: a process in a container sees there what the
// host's /dev has.
func ReadNodes(root string, a Address) Nodes {
	r := newReader(root)
	defer r.close()
	dir := r.function(a)
	defer dir.close()
	var n Nodes
	n.VFIO = r.vfio(dir)
	if uio := r.list(dir, "uio"); len(uio) > 0 {
		n.UIO = "/dev/" + uio[0]
	}
	r.rdmaNodes(&n, dir)
	return n
}

// ReadSubfunctionNodes is ReadNodes for a subfunction, by its name; none if it is not there.
func ReadSubfunctionNodes(root, name string) Nodes {
	r := newReader(root)
	defer r.close()
	var n Nodes
	if isSubfunction(name) {
		dir := r.root.open(auxiliaryDevices + "/" + name)
		defer dir.close()
		r.rdmaNodes(&n, dir)
	}
	return n
}

func (r *reader) rdmaNodes(n *Nodes, dir folder) {
	for _, name := range r.list(dir, "infiniband") {
		n.RDMA = append(n.RDMA, r.rdma(dir, name))
	}
	if len(n.RDMA) > 0 {
		n.RDMACM = r.misc("rdma_cm", "/dev/infiniband/rdma_cm")
	}
}

// misc is the path of a node that belongs to no device, such as rdma_cm's: empty if the kernel has no such device.
func (r *reader) misc(name, node string) string {
	if r.root.exists("sys/class/misc/" + name) {
		return node
	}
	return ""
}

// vfio asks for what vfio made, not for the driver's name: variants such as mlx5_vfio_pci make the same. Kernels before 6.1
// make no folder, so there the name has to do. A group alone says nothing: functions without isolation share one.
func (r *reader) vfio(dir folder) *VFIONodes {
	devices := r.list(dir, "vfio-dev")
	if len(devices) == 0 && !strings.Contains(r.link(dir, "driver"), "vfio") {
		return nil
	}
	var v VFIONodes
	if group := r.link(dir, "iommu_group"); group != "" {
		host := group
		if name, _ := r.text(r.root, "sys/kernel/iommu_groups/"+group+"/name"); name == "vfio-noiommu" {
			host = "noiommu-" + group
		}
		if r.root.exists("sys/class/vfio/" + host) {
			v.Container, v.Group, v.InContainer = "/dev/vfio/vfio", "/dev/vfio/"+host, "/dev/vfio/"+group
		}
	}
	// The class has a node for it only with iommufd; the folder alone is there on every kernel since 6.1.
	if len(devices) > 0 && dir.exists("vfio-dev/"+devices[0]+"/dev") {
		v.Device, v.IOMMUFD = "/dev/vfio/devices/"+devices[0], r.misc("iommu", "/dev/iommu")
	}
	if v == (VFIONodes{}) {
		return nil
	}
	return &v
}

func (r *reader) rdma(dir folder, name string) RDMANodes {
	n := RDMANodes{Name: name}
	if verbs := r.list(dir, "infiniband_verbs"); len(verbs) > 0 {
		n.Verbs = "/dev/infiniband/" + r.ofDevice(dir, "infiniband_verbs", verbs, name)
	}
	for _, mad := range r.list(dir, "infiniband_mad") {
		if owner, ok := r.text(dir, "infiniband_mad/"+mad+"/ibdev"); ok && owner != name {
			continue
		}
		switch {
		case strings.HasPrefix(mad, "umad"):
			n.MAD = "/dev/infiniband/" + mad
		case strings.HasPrefix(mad, "issm"):
			n.Issuer = "/dev/infiniband/" + mad
		}
	}
	return n
}

// ofDevice picks the entry whose ibdev attribute names the RDMA device; the first where none says.
func (r *reader) ofDevice(dir folder, within string, entries []string, device string) string {
	for _, e := range entries {
		if owner, ok := r.text(dir, within+"/"+e+"/ibdev"); ok && owner == device {
			return e
		}
	}
	return entries[0]
}

// partitionKey reads the InfiniBand partition key at index 0 of an RDMA device, such as 0x8001; empty if it has none.
func (r *reader) partitionKey(dir folder, device string) string {
	ports := "infiniband/" + device + "/ports"
	for _, port := range r.list(dir, ports) {
		if key, ok := r.text(dir, ports+"/"+port+"/pkeys/0"); ok {
			return strings.ToLower(key)
		}
	}
	return ""
}
