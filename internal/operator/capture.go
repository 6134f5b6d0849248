package operator

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// What of a function's folder in sysfs goes into a report: enough for pkg/pci to see there what it saw here.
var (
	attributes = strings.Fields(`vendor device class revision subsystem_vendor subsystem_device numa_node acpi_index modalias
		sriov_totalvfs sriov_numvfs sriov_offset sriov_stride sriov_drivers_autoprobe`)
	netAttributes = strings.Fields("ifindex type carrier operstate mtu address phys_port_name phys_switch_id dev_port")
)

const devicesDir = "sys/bus/pci/devices"

// sysfs writes one function as a folder of its own, without the bus's long way to it.
func (r *reporter) sysfs(address string) {
	dir := path.Join(devicesDir, address)
	r.attributes(dir, attributes)
	entries, err := os.ReadDir(r.n.path(dir))
	r.miss(dir, err)
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == "driver":
			r.linkTo(dir, name, "../../drivers/")
		case name == "iommu_group":
			r.linkTo(dir, name, "../../../../kernel/iommu_groups/")
		case name == "physfn" || strings.HasPrefix(name, "virtfn"):
			r.linkTo(dir, name, "../")
		case name == "net" || strings.HasPrefix(name, "virtio"):
			r.interfaces(path.Join(dir, name))
		case name == "infiniband":
			r.infiniband(path.Join(dir, name))
		case slices.Contains([]string{"vfio-dev", "uio", "vdpa"}, name):
			for _, node := range r.names(path.Join(dir, name)) {
				r.attributes(path.Join(dir, name, node), []string{"dev", "name"})
			}
		}
	}
}

func (r *reporter) interfaces(dir string) {
	if strings.HasPrefix(path.Base(dir), "virtio") {
		dir = path.Join(dir, "net")
	}
	for _, name := range r.names(dir) {
		r.attributes(path.Join(dir, name), netAttributes)
	}
}

func (r *reporter) infiniband(dir string) {
	for _, name := range r.names(dir) {
		ports := path.Join(dir, name, "ports")
		r.attributes(path.Join(dir, name), []string{"fw_ver", "board_id"})
		for _, port := range r.names(ports) {
			r.attributes(path.Join(ports, port, "pkeys"), []string{"0"})
			r.attributes(path.Join(ports, port), []string{"state", "link_layer"})
		}
	}
}

func (r *reporter) names(dir string) (names []string) {
	entries, _ := os.ReadDir(r.n.path(dir)) // gone, or none: the function may not have it
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// attributes writes those that can be read: a carrier cannot while the interface is down.
func (r *reporter) attributes(dir string, names []string) {
	for _, name := range names {
		if data, err := tail(r.n.path(path.Join(dir, name)), 4096); err == nil {
			r.file(inTree(path.Join(dir, name)), data)
		}
	}
}

func (r *reporter) linkTo(dir, name, above string) {
	if target, err := os.Readlink(r.n.path(path.Join(dir, name))); err == nil {
		r.link(inTree(path.Join(dir, name)), above+filepath.Base(target))
	}
}
