// Package pci tells what PCI functions a node has: PFs, their VFs, drivers, NUMA nodes, IOMMU groups, network
// interfaces. It reads sysfs below a root that tests can set, and changes nothing.
//
// Two facts of the kernel shape it. A VF's index is the N of its PF's virtfnN link, not its function number. And a VF
// whose interface was moved into another network namespace stays in sysfs with its driver bound, but its net folder is
// empty when read from here.
package pci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoDevice means that sysfs has no function at the address asked for; test with errors.Is.
var ErrNoDevice = errors.New("no such PCI device")

// Base classes of the functions that a Scan keeps.
const (
	ClassNetwork     = 0x02
	ClassAccelerator = 0x12
)

// A Device is one PCI function as it was when it was read. Do not change one that a Snapshot gave out.
type Device struct {
	Address Address `json:"address"`
	Vendor  string  `json:"vendor"`           // four hexadecimal digits, lower case, such as 8086
	Product string  `json:"product"`          // the device id, in the same form
	Class   uint32  `json:"class"`            // base class, subclass and interface, such as 0x020000
	Driver  string  `json:"driver,omitempty"` // the bound driver; empty: none
	// NUMANode is -1 where the machine does not say.
	NUMANode int `json:"numaNode"`
	// IOMMUGroup is the group's number; empty: no IOMMU, so no vfio without its no-IOMMU mode.
	IOMMUGroup string   `json:"iommuGroup,omitempty"`
	ACPIIndex  string   `json:"acpiIndex,omitempty"`
	Netdevs    []Netdev `json:"netdevs,omitempty"` // the interfaces in this network namespace, by name
	RDMA       []string `json:"rdma,omitempty"`    // RDMA devices, such as mlx5_0
	// PKey is the InfiniBand partition key at index 0 of the first RDMA device, such as 0x8001; empty: none.
	PKey string `json:"pKey,omitempty"`
	// VFIO says that there is a device node for vfio: false with a vfio driver means that nobody can use the device.
	VFIO bool `json:"vfio,omitempty"`

	// PF is the address of the physical function and VFIndex the number on it. They hold only if IsVF: VFIndex is -1
	// on everything else.
	PF      Address `json:"pf,omitzero"`
	VFIndex int     `json:"vfIndex"`

	// TotalVFs is how many VFs the function can have: more than 0 makes it a PF. VFs are those that it has now, by
	// index; an index whose VF could not be found has the zero Address.
	TotalVFs int       `json:"totalVFs,omitempty"`
	VFs      []Address `json:"vfs,omitempty"`

	Subfunctions []Subfunction `json:"subfunctions,omitempty"` // by name
	VDPA         *VDPA         `json:"vdpa,omitempty"`         // on the function itself, not on a subfunction
}

// A Netdev is a network interface of a PCI function.
type Netdev struct {
	Name  string `json:"name"`
	Index int    `json:"index"` // the interface index
	Type  int    `json:"type"`  // ARPHRD_…: 1 Ethernet, 32 InfiniBand
	// PhysPortName is p0 and the like on an uplink in switchdev mode, pf0vf1 on the representor of a VF. Empty where the
	// driver does not say, as in legacy mode. It is read only on PFs and functions without SR-IOV.
	PhysPortName string `json:"physPortName,omitempty"`
	// Up says that the interface has carrier, as sysfs has it; false while it is down.
	Up bool `json:"up,omitempty"`
}

// IsVF reports whether the device is a virtual function.
func (d *Device) IsVF() bool { return d.VFIndex >= 0 }

// IsPF reports whether the device can have VFs.
func (d *Device) IsPF() bool { return d.TotalVFs > 0 }

// BaseClass is the top byte of the class: ClassNetwork, ClassAccelerator.
func (d *Device) BaseClass() uint32 { return d.Class >> 16 }

// Uplink is the interface that is the function's own port, and false if it has none here. In switchdev mode a PF holds
// the representors of its VFs and subfunctions, too: the uplink is the one that is called p<N> or has no port name.
func (d *Device) Uplink() (Netdev, bool) {
	for _, n := range d.Netdevs {
		if isUplinkPort(n.PhysPortName) {
			return n, true
		}
	}
	return Netdev{}, false
}

// Representor is the interface on a PF in switchdev mode that stands for the VF with this index, and false if there is
// none here. A switch on the PF sees the VF's packets there.
func (d *Device) Representor(vf int) (Netdev, bool) { return d.port("vf", vf) }

// SubfunctionRepresentor is Representor for a subfunction, by its number.
func (d *Device) SubfunctionRepresentor(number int) (Netdev, bool) { return d.port("sf", number) }

// port finds the interface with port name pf<M>vf<N>. Names that start with c<K> are of functions that another host has,
// which a DPU serves. M says little: the function holds its own ports only.
func (d *Device) port(kind string, number int) (Netdev, bool) {
	for _, n := range d.Netdevs {
		rest, ok := strings.CutPrefix(n.PhysPortName, "pf")
		pf, own, ok2 := strings.Cut(rest, kind)
		if ok && ok2 && isNumber(pf) && own == strconv.Itoa(number) {
			return n, true
		}
	}
	return Netdev{}, false
}

func isUplinkPort(name string) bool {
	number, ok := strings.CutPrefix(name, "p")
	return name == "" || ok && isNumber(number)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

const devicesDir = "sys/bus/pci/devices"

// Read reads one function below root ("/" on a node). The error wraps ErrNoDevice if there is none, or it vanished while
// it was read.
func Read(root string, a Address) (*Device, error) {
	r := newReader(root)
	defer r.close()
	d, err := r.device(a, nil)
	if err != nil {
		return nil, fmt.Errorf("read PCI device %s: %w", a, err)
	}
	if !d.IsVF() {
		return d, nil
	}
	// VFIndex is 0 until the PF's links say which it is.
	if d.VFIndex = r.vfIndex(d.PF, a); d.VFIndex < 0 {
		return nil, fmt.Errorf("read PCI device %s: %w: its PF %s no longer lists it", a, ErrNoDevice, d.PF)
	}
	return d, nil
}

// device reads everything of a function but a VF's index, which its PF knows: a VF comes back with index 0. With wanted,
// it gives nil for a class that is not.
func (r *reader) device(a Address, wanted func(class uint32) bool) (*Device, error) {
	dir := r.function(a)
	defer dir.close()
	class, ok := r.hex(dir, "class")
	if !ok {
		return nil, ErrNoDevice
	}
	if wanted != nil && !wanted(class) {
		return nil, nil
	}
	d := &Device{Address: a, Class: class, NUMANode: -1, VFIndex: -1}
	vendor, ok1 := r.hex(dir, "vendor")
	product, ok2 := r.hex(dir, "device")
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: its vendor and device cannot be read", ErrNoDevice)
	}
	d.Vendor, d.Product = r.id(vendor), r.id(product)
	r.binding(d, dir)
	if n, ok := r.number(dir, "numa_node"); ok {
		d.NUMANode = n
	}
	d.ACPIIndex, _ = r.text(dir, "acpi_index")
	if pf := r.link(dir, "physfn"); pf != "" {
		address, err := ParseAddress(pf)
		if err != nil {
			return nil, fmt.Errorf("read its physfn link: %w", err)
		}
		d.PF, d.VFIndex = address, 0
	} else {
		d.TotalVFs, _ = r.number(dir, "sriov_totalvfs")
		if d.IsPF() {
			d.VFs = r.vfs(dir)
		}
	}
	// After physfn: the interface's port name is asked for on everything but VFs.
	r.interfaces(d, dir)
	h := r.hosted[a]
	if r.hosted == nil {
		h = r.hostedBy(dir)
	}
	if h != nil {
		r.others(d, dir, h)
	}
	return d, nil
}

// binding reads what a driver change changes.
func (r *reader) binding(d *Device, dir folder) {
	d.Driver = r.name(r.link(dir, "driver"))
	d.IOMMUGroup = r.link(dir, "iommu_group")
	d.VFIO = strings.Contains(d.Driver, "vfio") && r.vfio(dir) != nil
}

func (r *reader) interfaces(d *Device, dir folder) {
	if d.BaseClass() != ClassNetwork {
		return
	}
	d.RDMA = r.list(dir, "infiniband")
	if len(d.RDMA) > 0 {
		d.PKey = r.partitionKey(dir, d.RDMA[0])
	}
	prefix := "net"
	if d.Driver == "virtio-pci" {
		// The function holds a virtio device, and that the interface.
		if children := r.matching(dir, "virtio"); len(children) > 0 {
			prefix = children[0] + "/net"
		}
	}
	d.Netdevs = r.netdevs(dir, prefix, !d.IsVF())
}

// netdevs reads the interfaces in a folder that is called net; with ports also what their port is and how it is.
func (r *reader) netdevs(dir folder, net string, ports bool) (netdevs []Netdev) {
	for _, name := range r.list(dir, net) {
		at := net + "/" + name
		n := Netdev{Name: name}
		var ok bool
		if n.Index, ok = r.number(dir, at+"/ifindex"); !ok {
			continue // it was moved or renamed while we read
		}
		n.Type, _ = r.number(dir, at+"/type")
		if ports {
			n.PhysPortName, _ = r.text(dir, at+"/phys_port_name")
			carrier, _ := r.number(dir, at+"/carrier") // EINVAL while the interface is down
			n.Up = carrier == 1
		}
		netdevs = append(netdevs, n)
	}
	return netdevs
}

// vfs reads a PF's virtfnN links, in order of N. It does not ask sriov_numvfs: that is 0 until the last VF is there, and
// some kernels hold the answer back while VFs are made or removed, which takes a minute where there are many.
func (r *reader) vfs(dir folder) (vfs []Address) {
	const prefix = "virtfn"
	for _, name := range r.matching(dir, prefix) {
		n, err := strconv.ParseUint(name[len(prefix):], 10, 16) // the SR-IOV capability counts them in 16 bits
		if err != nil {
			continue
		}
		// A link that is missing or odd leaves a hole: the others keep their index.
		for len(vfs) <= int(n) {
			vfs = append(vfs, Address{})
		}
		vfs[n], _ = ParseAddress(r.link(dir, name))
	}
	return vfs
}

// vfIndex finds vf among the PF's links, -1 if it is not there. The SR-IOV capability's offset and stride say where to
// look first; only the link itself is believed.
func (r *reader) vfIndex(pf, vf Address) int {
	dir := r.function(pf)
	defer dir.close()
	is := func(i int) bool {
		a, err := ParseAddress(r.link(dir, "virtfn"+strconv.Itoa(i)))
		return err == nil && a == vf
	}
	offset, ok1 := r.number(dir, "sriov_offset")
	stride, ok2 := r.number(dir, "sriov_stride")
	if ok1 && ok2 && stride > 0 {
		if i := (vf.routingID() - pf.routingID() - offset) / stride; i >= 0 && is(i) {
			return i
		}
	}
	return slices.Index(r.vfs(dir), vf)
}

// Addresses lists the functions that sysfs has below root, sorted.
func Addresses(root string) ([]Address, error) {
	entries, err := os.ReadDir(filepath.Join(root, devicesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a machine without a PCI bus
	}
	if err != nil {
		return nil, fmt.Errorf("list PCI devices: %w", err)
	}
	addresses := make([]Address, 0, len(entries))
	for _, e := range entries {
		a, err := ParseAddress(e.Name())
		if err != nil {
			return nil, fmt.Errorf("list PCI devices below %s: %w", root, err)
		}
		addresses = append(addresses, a)
	}
	slices.SortFunc(addresses, Address.Compare)
	return addresses, nil
}
