package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// allocate makes the answer for one container. Everything that can have changed since the last scan, such as the vfio
// group, is looked up now.
func (s *server) allocate(r *Resource, ids []string) (*deviceplugin.ContainerAllocateResponse, error) {
	a := answer{info: map[string]map[string]map[string]string{}}
	for _, id := range ids {
		i := slices.IndexFunc(r.Devices, func(d Device) bool { return d.ID == id })
		if i < 0 {
			return nil, status.Errorf(codes.NotFound, "%s has no device %s (it has %d others): it was removed, or belongs to another pool", r.Name, id, len(r.Devices)-1)
		}
		d := r.Devices[i]
		if d.Unhealthy != "" {
			return nil, status.Errorf(codes.FailedPrecondition, "device %s of %s is unhealthy: %s", id, r.Name, d.Unhealthy)
		}
		if err := s.allocateDevice(&a, r, &d); err != nil {
			return nil, status.Errorf(codes.Internal, "allocate %s of %s: %v", id, r.Name, err)
		}
	}
	envs, err := environment(r.Name, ids, a.info)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "describe devices of %s: %v", r.Name, err)
	}
	return &deviceplugin.ContainerAllocateResponse{Envs: envs, Devices: a.specs}, nil
}

// An answer collects what a container needs. info is by device id, then by topic, such as vfio.
type answer struct {
	specs []*deviceplugin.DeviceSpec
	info  map[string]map[string]map[string]string
}

// mount gives the container a node, once. m(knod) is for drivers' control nodes only, which nothing here needs.
func (a *answer) mount(host, container string) {
	if slices.ContainsFunc(a.specs, func(s *deviceplugin.DeviceSpec) bool { return s.GetContainerPath() == container }) {
		return
	}
	a.specs = append(a.specs, &deviceplugin.DeviceSpec{HostPath: host, ContainerPath: container, Permissions: "rw"})
}

func (s *server) allocateDevice(a *answer, r *Resource, d *Device) error {
	address, err := pci.ParseAddress(d.ID)
	if err != nil {
		return err
	}
	function, err := pci.Read(s.config.Root, address)
	if err != nil {
		return err
	}
	info := map[string]map[string]string{"generic": {"deviceID": d.ID}}
	a.info[d.ID] = info
	nodes := pci.ReadNodes(s.config.Root, address)
	if isVFIO(function.Driver) && nodes.VFIO == nil {
		return fmt.Errorf("its driver is %s, but it has no vfio node: see whether the IOMMU is on", function.Driver)
	}
	a.addVFIO(info, nodes.VFIO)
	if nodes.UIO != "" {
		a.mount(nodes.UIO, nodes.UIO)
		info["uio"] = map[string]string{"mount": nodes.UIO}
	}
	if d.RDMA {
		a.addRDMA(info, nodes)
	}
	vhost := ""
	if d.VhostNet {
		if vhost, err = a.addVhost(info, s.config.Root); err != nil {
			return err
		}
	}
	if extra := extraInfo(r.AdditionalInfo, d.ID); len(extra) > 0 {
		info["extra"] = extra
	}
	return s.config.DevInfo.WriteDevice(r.Name, d.ID, deviceInfo(function, vhost, d.RDMA))
}

func isVFIO(driver string) bool { return strings.Contains(driver, "vfio") }

func (a *answer) addVFIO(info map[string]map[string]string, v *pci.VFIONodes) {
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
	info["vfio"] = about
}

func (a *answer) addRDMA(info map[string]map[string]string, nodes pci.Nodes) {
	if len(nodes.RDMA) == 0 {
		return // it is in a pod's namespace, or never had one: the selector vouched for it
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
	info["rdma"] = about
}

const (
	vhostNode = "/dev/vhost-net"
	tunNode   = "/dev/net/tun"
)

func (a *answer) addVhost(info map[string]map[string]string, root string) (string, error) {
	if pci.Misc(root, "vhost-net", vhostNode) == "" {
		return "", fmt.Errorf("its pool has needVhostNet, but the node has no %s: load the module vhost_net", vhostNode)
	}
	a.mount(vhostNode, vhostNode)
	a.mount(tunNode, tunNode)
	info["vhost"] = map[string]string{"net-mount": vhostNode, "tun-mount": tunNode}
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
func environment(resource string, ids []string, info map[string]map[string]map[string]string) (map[string]string, error) {
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
