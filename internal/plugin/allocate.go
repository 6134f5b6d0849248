package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// allocate makes the answer for one container. Everything that can have changed since the last scan, such as the vfio
// group, is looked up now.
func (s *server) allocate(r *Resource, ids []string) (*deviceplugin.ContainerAllocateResponse, error) {
	devices, err := usable(r, ids)
	if err != nil {
		return nil, err
	}
	if s.config.Allocating != nil {
		s.config.Allocating(r.Name, ids)
	}
	response := &deviceplugin.ContainerAllocateResponse{}
	all := map[string]info{}
	for _, d := range devices {
		if all[d.ID], err = s.allocateDevice(response, r, d); err != nil {
			return nil, status.Errorf(codes.Internal, "allocate %s of %s: %v", d.ID, r.Name, err)
		}
	}
	if response.Envs, err = environment(r.Name, ids, all); err != nil {
		return nil, status.Errorf(codes.Internal, "describe devices of %s: %v", r.Name, err)
	}
	return response, nil
}

// usable finds the devices. The kubelet may ask for one that it was told is unhealthy, when that was a moment ago: it is
// refused, and the pod fails with the reason, rather than start with a device that does not work.
func usable(r *Resource, ids []string) ([]*Device, error) {
	devices := make([]*Device, len(ids))
	for n, id := range ids {
		i := slices.IndexFunc(r.Devices, func(d Device) bool { return d.ID == id })
		if i < 0 {
			return nil, status.Errorf(codes.NotFound, "%s has no device %q (it has %d): it was removed, or belongs to another pool", r.Name, id, len(r.Devices))
		}
		devices[n] = &r.Devices[i]
		if why := devices[n].Unhealthy; why != "" {
			return nil, status.Errorf(codes.FailedPrecondition, "device %s of %s is unhealthy: %s", id, r.Name, why)
		}
	}
	return devices, nil
}

// allocateDevice adds one device to the answer.
func (s *server) allocateDevice(response *deviceplugin.ContainerAllocateResponse, r *Resource, d *Device) (info, error) {
	a, err := s.look(r, d)
	if err != nil {
		return nil, err
	}
	return a.info, s.handOver(response, r, a)
}

// An allocation is what a container needs for one device.
type allocation struct {
	id      string
	nodes   []cdi.Node
	info    info
	devInfo devinfo.Info
}

// info is what a container is told of a device, by topic, such as vfio.
type info map[string]map[string]string

// mount gives the container a node, once. m(knod) is for drivers' control nodes only, which nothing here needs.
func (a *allocation) mount(host, container string) {
	if !slices.ContainsFunc(a.nodes, func(n cdi.Node) bool { return n.Container == container }) {
		a.nodes = append(a.nodes, cdi.Node{Host: host, Container: container, Permissions: "rw"})
	}
}

// look finds out what a container needs for a device.
func (s *server) look(r *Resource, d *Device) (*allocation, error) {
	address, err := pci.ParseAddress(d.ID)
	if err != nil {
		return nil, err
	}
	function, err := pci.Read(s.config.Root, address)
	if err != nil {
		return nil, err
	}
	a := &allocation{id: d.ID, info: info{"generic": {"deviceID": d.ID}}}
	nodes := pci.ReadNodes(s.config.Root, address)
	if isVFIO(function.Driver) && nodes.VFIO == nil {
		return nil, fmt.Errorf("its driver is %s, but it has no vfio node: see whether the IOMMU is on", function.Driver)
	}
	if isUIO(function.Driver) && nodes.UIO == "" {
		return nil, fmt.Errorf("its driver is %s, but it has no uio node", function.Driver)
	}
	a.addVFIO(nodes.VFIO)
	if nodes.UIO != "" {
		a.mount(nodes.UIO, nodes.UIO)
		a.info["uio"] = map[string]string{"mount": nodes.UIO}
	}
	if d.RDMA {
		if err := a.addRDMA(nodes); err != nil {
			return nil, err
		}
	}
	vhost := ""
	if d.VhostNet {
		if vhost, err = a.addVhost(s.config.Root); err != nil {
			return nil, err
		}
	}
	if extra := extraInfo(r.AdditionalInfo, d.ID); len(extra) > 0 {
		a.info["extra"] = extra
	}
	a.devInfo = deviceInfo(function, vhost, d.RDMA)
	return a, nil
}

// handOver adds a device's nodes to the answer, by CDI or as they are, and writes its files.
func (s *server) handOver(response *deviceplugin.ContainerAllocateResponse, r *Resource, a *allocation) error {
	if s.config.CDI != nil {
		name, err := s.config.CDI.Write(r.Name, a.id, a.nodes)
		if err != nil {
			return err
		}
		if name != "" {
			response.CdiDevices = append(response.CdiDevices, &deviceplugin.CDIDevice{Name: name})
		}
	} else {
		for _, n := range a.nodes {
			isNode := func(d *deviceplugin.DeviceSpec) bool { return d.GetContainerPath() == n.Container }
			if !slices.ContainsFunc(response.Devices, isNode) { // devices share some, such as /dev/vfio/vfio
				response.Devices = append(response.Devices, &deviceplugin.DeviceSpec{
					HostPath: n.Host, ContainerPath: n.Container, Permissions: n.Permissions,
				})
			}
		}
	}
	return s.config.DevInfo.WriteDevice(r.Name, a.id, a.devInfo)
}

func isVFIO(driver string) bool { return strings.Contains(driver, "vfio") }

func isUIO(driver string) bool { return driver == "igb_uio" || driver == "uio_pci_generic" }

func (a *allocation) addVFIO(v *pci.VFIONodes) {
	if v == nil {
		return
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

func (a *allocation) addVhost(root string) (string, error) {
	if pci.Misc(root, "vhost-net", vhostNode) == "" {
		return "", fmt.Errorf("its pool has needVhostNet, but the node has no %s: load the module vhost_net", vhostNode)
	}
	a.mount(vhostNode, vhostNode)
	a.mount(tunNode, tunNode)
	a.info["vhost"] = map[string]string{"net-mount": vhostNode, "tun-mount": tunNode}
	return vhostNode, nil
}

// extraInfo is what the pool says of all devices, and over it what it says of this one.
func extraInfo(all map[string]map[string]string, id string) map[string]string {
	extra := map[string]string{}
	maps.Copy(extra, all["*"])
	maps.Copy(extra, all[id])
	return extra
}

func deviceInfo(d *pci.Device, vhost string, rdma bool) devinfo.Info {
	p := &devinfo.PCI{Address: d.Address.String(), VhostNet: vhost}
	if d.IsVF() {
		p.PFAddress = d.PF.String()
	}
	if rdma && len(d.RDMA) > 0 {
		p.RDMADevice = d.RDMA[0]
	}
	return devinfo.Info{Type: "pci", PCI: p}
}

// environment names the container's devices: PCIDEVICE_<RESOURCE>, and …_INFO with what is known of each. Programs look
// for the name with the resource's - in it, which no shell can read: a second spelling has _ there.
func environment(resource string, ids []string, info map[string]info) (map[string]string, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	name := "PCIDEVICE_" + strings.NewReplacer(".", "_", "/", "_").Replace(strings.ToUpper(resource))
	envs := map[string]string{}
	for _, n := range []string{name, strings.ReplaceAll(name, "-", "_")} {
		envs[n] = strings.Join(ids, ",")
		envs[n+"_INFO"] = string(data)
	}
	return envs, nil
}
