package pool

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Files in each form that the SR-IOV network device plugin's documentation shows, and which device it gives to which
// resource. The values are this test's own, the forms are the documentation's.
func TestPeerForms(t *testing.T) {
	ether := func(id, vendor, product, driver, pf, pfName string, index int) *Device {
		return &Device{
			ID: id, Type: NetDevice, Vendor: vendor, Product: product, Driver: driver, PF: pf, PFNames: []string{pfName},
			Index: index, LinkType: "ether",
		}
	}
	with := func(d *Device, change func(*Device)) *Device { change(d); return d }
	rdma := func(d *Device) { d.RDMA = true }
	tests := map[string]struct {
		config  string
		devices []*Device
		want    []string // the resource of each device; empty: none
	}{
		"the large example: lists of selectors, one pool after the other": {
			`{"resourceList": [
				{"resourceName": "kernel_vfs", "selectors": [{"vendors": ["8086"], "devices": ["1889", "154c"], "drivers": ["iavf", "ixgbevf"]}]},
				{"resourceName": "dpdk_vfs", "resourcePrefix": "example.com", "selectors": [{"vendors": ["8086"], "devices": ["1889"],
				 "drivers": ["vfio-pci"], "pfNames": ["ens1f0", "ens1f1"], "needVhostNet": true}]},
				{"resourceName": "rdma_vfs", "resourcePrefix": "nic.example.com", "selectors": [{"vendors": ["15b3"], "devices": ["101e"], "isRdma": true}]},
				{"resourceName": "ib_vfs", "selectors": [{"linkTypes": ["infiniband"], "isRdma": true}]},
				{"resourceName": "vdpa_vfs", "selectors": [{"vendors": ["15b3"], "devices": ["101e"], "drivers": ["mlx5_core"], "vdpaType": "vhost"}]},
				{"resourceName": "fpga", "deviceType": "accelerator", "selectors": [{"vendors": ["8086"], "devices": ["0d90"]}]},
				{"resourceName": "sfs", "resourcePrefix": "nic.example.com", "deviceType": "auxNetDevice", "selectors": [{"vendors": ["15b3"],
				 "devices": ["a2d6"], "pfNames": ["p0#1-5"], "auxTypes": ["sf"]}]},
				{"resourceName": "with_info", "selectors": [{"vendors": ["14e4"]}], "additionalInfo": {"*": {"token": "t"}}},
				{"resourceName": "one_object", "selectors": {"vendors": ["1af4"], "drivers": ["virtio-pci"]}}
			]}`,
			[]*Device{
				ether("0000:3b:01.0", "8086", "1889", "iavf", "0000:3b:00.0", "ens1f0", 0),
				ether("0000:3b:01.1", "8086", "1889", "vfio-pci", "0000:3b:00.0", "ens1f0", 1),
				ether("0000:3c:01.1", "8086", "1889", "vfio-pci", "0000:3c:00.0", "ens9", 1),
				with(ether("0000:5e:00.2", "15b3", "101e", "mlx5_core", "0000:5e:00.0", "p1", 0), rdma),
				with(ether("0000:5e:00.3", "15b3", "1016", "mlx5_core", "0000:5e:00.0", "ib0", 1), func(d *Device) { d.RDMA, d.LinkType = true, "infiniband" }),
				with(ether("0000:5e:00.4", "15b3", "101e", "mlx5_core", "0000:5e:00.0", "p1", 2), func(d *Device) { d.VDPAType = "vhost" }),
				{ID: "0000:b1:00.0", Type: Accelerator, Vendor: "8086", Product: "0d90", Driver: "vfio-pci", Index: -1},
				{ID: "mlx5_core.sf.4", Type: AuxNetDevice, Vendor: "15b3", Product: "a2d6", Driver: "mlx5_core", PF: "0000:03:00.0", PFNames: []string{"p0"}, Index: 4, AuxType: "sf"},
				{ID: "mlx5_core.sf.6", Type: AuxNetDevice, Vendor: "15b3", Product: "a2d6", Driver: "mlx5_core", PF: "0000:03:00.0", PFNames: []string{"p0"}, Index: 6, AuxType: "sf"},
				ether("0000:86:00.2", "14e4", "1750", "bnxt_en", "0000:86:00.0", "ens5", 0),
				{ID: "0000:00:03.0", Type: NetDevice, Vendor: "1af4", Product: "1000", Driver: "virtio-pci", Index: -1, LinkType: "ether"},
			},
			[]string{
				"intel.com/kernel_vfs", "example.com/dpdk_vfs", "", "nic.example.com/rdma_vfs", "intel.com/ib_vfs", "intel.com/vdpa_vfs",
				"intel.com/fpga", "nic.example.com/sfs", "", "intel.com/with_info", "intel.com/one_object",
			},
		},
		"two families of NICs in one pool, and one kind by driver": {
			`{"resourceList": [{"resourcePrefix": "dpdk.example", "resourceName": "nic", "selectors": [
				{"vendors": ["15b3"], "devices": ["1018"], "drivers": ["mlx5_core"], "isRdma": true},
				{"vendors": ["8086"], "devices": ["154c"], "drivers": ["vfio-pci"]}]}]}`,
			[]*Device{
				with(ether("0000:5e:00.2", "15b3", "1018", "mlx5_core", "0000:5e:00.0", "p1", 0), rdma),
				ether("0000:5e:00.3", "15b3", "1018", "mlx5_core", "0000:5e:00.0", "p1", 1),
				ether("0000:3b:02.0", "8086", "154c", "vfio-pci", "0000:3b:00.0", "ens1f0", 0),
				ether("0000:3b:02.1", "8086", "154c", "iavf", "0000:3b:00.0", "ens1f0", 1),
			},
			[]string{"dpdk.example/nic", "", "dpdk.example/nic", ""},
		},
		"VFs by index on PFs by name and by address": {
			`{"resourceList": [
				{"resourceName": "a", "selectors": {"pfNames": ["netpf0#0,2-7,9"]}},
				{"resourceName": "b", "selectors": {"rootDevices": ["0000:86:00.0#0-1,3,4"]}},
				{"resourceName": "c", "selectors": {"pfNames": ["netpf0", "netpf1"]}}]}`,
			[]*Device{
				ether("0000:86:02.0", "8086", "154c", "iavf", "0000:86:00.0", "netpf0", 0),
				ether("0000:86:02.1", "8086", "154c", "iavf", "0000:86:00.0", "netpf0", 1),
				ether("0000:86:03.0", "8086", "154c", "iavf", "0000:86:00.0", "netpf0", 8),
				ether("0000:86:03.1", "8086", "154c", "iavf", "0000:86:00.0", "netpf0", 9),
				{ID: "0000:87:00.0", Type: NetDevice, Vendor: "8086", Driver: "i40e", Index: -1}, // the PF netpf1 itself
			},
			[]string{"intel.com/a", "intel.com/b", "intel.com/c", "intel.com/a", ""},
		},
		"as passed through into a virtual machine: by address alone": {
			`{"resourceList": [
				{"resourceName": "downlink", "selectors": [{"drivers": ["vfio-pci"], "pciAddresses": ["0000:00:09.0", "0000:00:0A.0"]}]},
				{"resourceName": "uplink", "selectors": [{"drivers": ["vfio-pci"], "pciAddresses": ["0000:00:07.0"]}]}]}`,
			[]*Device{
				{ID: "0000:00:07.0", Type: NetDevice, Vendor: "8086", Product: "1889", Driver: "vfio-pci", Index: -1},
				{ID: "0000:00:0a.0", Type: NetDevice, Vendor: "8086", Product: "1889", Driver: "vfio-pci", Index: -1},
				{ID: "0000:00:0b.0", Type: NetDevice, Vendor: "8086", Product: "1889", Driver: "vfio-pci", Index: -1},
			},
			[]string{"intel.com/uplink", "intel.com/downlink", ""},
		},
		"DDP packages": {
			`{"resourceList": [
				{"resourceName": "default", "resourcePrefix": "intel.com", "selectors": [{"devices": ["1889"], "ddpProfiles": ["ICE OS Default Package"]}]},
				{"resourceName": "comms", "selectors": [{"devices": ["1889"], "ddpProfiles": ["ICE COMMS Package"]}]}]}`,
			[]*Device{
				with(ether("0000:3b:01.0", "8086", "1889", "iavf", "0000:3b:00.0", "ens1f0", 0), func(d *Device) { d.DDPProfile = "ICE COMMS Package" }),
				ether("0000:3c:01.0", "8086", "1889", "iavf", "0000:3c:00.0", "ens2f0", 0),
			},
			[]string{"intel.com/comms", ""},
		},
		"partition keys, short and in capitals": {
			`{"resourceList": [{"resourceName": "a", "selectors": {"linkTypes": ["infiniband"], "pKeys": ["0x1", "0xABCD"]}}]}`,
			[]*Device{
				{ID: "0000:5e:00.2", Type: NetDevice, Driver: "mlx5_core", LinkType: "infiniband", PKey: "0x0001"},
				{ID: "0000:5e:00.3", Type: NetDevice, Driver: "mlx5_core", LinkType: "infiniband", PKey: "0xabcd"},
				{ID: "0000:5e:00.4", Type: NetDevice, Driver: "mlx5_core", LinkType: "infiniband", PKey: "0xffff"},
			},
			[]string{"intel.com/a", "intel.com/a", ""},
		},
		"by the firmware's index": {
			`{"resourceList": [{"resourceName": "a", "deviceType": "accelerator", "selectors": [{"acpiIndexes": ["101"]}]}]}`,
			[]*Device{{ID: "0000:b1:00.0", Type: Accelerator, Driver: "vfio-pci", ACPI: "101", Index: -1}},
			[]string{"intel.com/a"},
		},
		"subfunctions and VFs of one NIC": {
			`{"resourceList": [
				{"resourceName": "vf", "selectors": {"vendors": ["15b3"], "devices": ["101e"]}},
				{"resourceName": "sf", "deviceType": "auxNetDevice", "selectors": {"vendors": ["15b3"], "devices": ["101d"], "auxTypes": ["sf", "eth"]}}]}`,
			[]*Device{
				ether("0000:08:00.2", "15b3", "101e", "mlx5_core", "0000:08:00.0", "p0", 0),
				{ID: "mlx5_core.sf.2", Type: AuxNetDevice, Vendor: "15b3", Product: "101d", Driver: "mlx5_core", Index: 88, AuxType: "sf"},
			},
			[]string{"intel.com/vf", "intel.com/sf"},
		},
		"as the SR-IOV network operator writes it": {
			`{"resourceList":[{"resourceName":"nics","selectors":{"vendors":["8086"],"pfNames":["ens785f0#0-4"],"IsRdma":false,"NeedVhostNet":false},"SelectorObj":null},
			{"resourceName":"more","selectors":{"pfNames":["ens785f0#5-9"],"IsRdma":true},"SelectorObjs":null}]}`,
			[]*Device{
				ether("0000:3b:02.4", "8086", "154c", "iavf", "0000:3b:00.0", "ens785f0", 4),
				with(ether("0000:3b:02.5", "8086", "154c", "iavf", "0000:3b:00.0", "ens785f0", 5), rdma),
				ether("0000:3b:02.6", "8086", "154c", "iavf", "0000:3b:00.0", "ens785f0", 6),
			},
			[]string{"intel.com/nics", "intel.com/more", ""},
		},
		"as the SR-IOV network operator writes it for a node without pools": {`{"resourceList":null}`, nil, []string{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := config(t, test.config)
			got := []string{}
			for _, p := range Assign(c, test.devices, nil) {
				resource := ""
				if p >= 0 {
					resource = c.Pools[p].Resource
				}
				got = append(got, resource)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}
