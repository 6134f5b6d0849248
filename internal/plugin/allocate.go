package plugin

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
)

// allocate makes the answer for one container. Everything that can have changed since the last scan, such as the vfio
// group, is looked up now.
func (s *server) allocate(r *Resource, ids []string) (*deviceplugin.ContainerAllocateResponse, error) {
	devices, err := usable(r, ids)
	if err != nil {
		return nil, err
	}
	if s.config.Allocating != nil {
		if err := s.config.Allocating(r.Name, ids); err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
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
	devInfo *devinfo.Info // nil: there is no kind for such a device
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
	p, err := find(s.config.Root, d.ID)
	if err != nil {
		return nil, err
	}
	a := &allocation{id: d.ID, info: info{"generic": {"deviceID": d.ID}}}
	err = errors.Join(a.addVFIO(p), a.addUIO(p))
	if d.RDMA {
		err = errors.Join(err, a.addRDMA(p.nodes))
	}
	vhost := ""
	if d.VhostNet {
		vhost = vhostNode
		a.addVhost()
	}
	if d.VDPA != "" {
		err = errors.Join(err, a.addVDPA(p, d.VDPA))
	}
	if err != nil {
		return nil, err
	}
	if extra := extraInfo(r.AdditionalInfo, d.ID); len(extra) > 0 {
		a.info["extra"] = extra
	}
	a.devInfo = p.info(d.Needs, vhost)
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
	if a.devInfo == nil {
		return nil
	}
	return s.config.DevInfo.WriteDevice(r.Name, a.id, *a.devInfo)
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
