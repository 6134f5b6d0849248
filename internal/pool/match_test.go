package pool

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vf is VF 2 of ens785f0, which has the alternative name enp59s0f0.
func vf(change func(*Device)) *Device {
	d := &Device{
		ID: "0000:3b:02.2", Type: NetDevice, Vendor: "8086", Product: "154c", Driver: "iavf", ACPI: "101", PF: "0000:3b:00.0",
		PFNames: []string{"ens785f0", "enp59s0f0"}, Index: 2, LinkType: "ether", DDPProfile: "GTP", PKey: "0x8001",
		RDMA: true, VDPAType: "vhost",
	}
	if change != nil {
		change(d)
	}
	return d
}

// Each key is tried with a value that holds and one that does not, by the way that users write it.
func TestMatch(t *testing.T) {
	tests := map[string]struct {
		takes, refuses string // the selector
		device         *Device
		kind           DeviceType
	}{
		"vendors":                      {takes: `"vendors": ["15b3", "8086"]`, refuses: `"vendors": ["15b3"]`},
		"devices":                      {takes: `"devices": ["154C"]`, refuses: `"devices": ["10ed"]`},
		"drivers":                      {takes: `"drivers": ["iavf"]`, refuses: `"drivers": ["vfio-pci"]`},
		"keys are AND":                 {takes: `"vendors": ["8086"], "drivers": ["iavf"]`, refuses: `"vendors": ["8086"], "drivers": ["vfio-pci"]`},
		"pciAddresses":                 {takes: `"pciAddresses": ["0000:3B:02.2"]`, refuses: `"pciAddresses": ["0000:3b:00.0"]`},
		"acpiIndexes":                  {takes: `"acpiIndexes": ["101"]`, refuses: `"acpiIndexes": ["1"]`},
		"pfNames":                      {takes: `"pfNames": ["ens785f0"]`, refuses: `"pfNames": ["ens785f1"]`},
		"alternative name":             {takes: `"pfNames": ["enp59s0f0#2"]`, refuses: `"pfNames": ["enp59s0f0#3"]`},
		"range":                        {takes: `"pfNames": ["ens785f0#0,2-3"]`, refuses: `"pfNames": ["ens785f0#0-1,3-9"]`},
		"two entries for a PF":         {takes: `"pfNames": ["ens785f0#0", "ens785f0#2"]`, refuses: `"pfNames": ["ens785f0#0", "ens785f0#1"]`},
		"rootDevices":                  {takes: `"rootDevices": ["0000:3b:00.0#1-2"]`, refuses: `"rootDevices": ["0000:3b:00.1"]`},
		"linkTypes":                    {takes: `"linkTypes": ["ether"]`, refuses: `"linkTypes": ["infiniband"]`},
		"ddpProfiles":                  {takes: `"ddpProfiles": ["GTP"]`, refuses: `"ddpProfiles": ["default"]`},
		"pKeys":                        {takes: `"pKeys": ["0x8001"]`, refuses: `"pKeys": ["0xffff"]`},
		"isRdma":                       {takes: `"isRdma": true`, refuses: `"isRdma": true, "vendors": ["15b3"]`},
		"isRdma false is unset":        {takes: `"isRdma": false`, refuses: `"vendors": ["15b3"]`},
		"vdpaType":                     {takes: `"vdpaType": "vhost"`, refuses: `"vdpaType": "virtio"`},
		"needVhostNet selects nothing": {takes: `"needVhostNet": true`, refuses: `"needVhostNet": true, "vendors": ["15b3"]`},
		"auxTypes": {
			takes: `"auxTypes": ["sf"]`, refuses: `"auxTypes": ["eth"]`, kind: AuxNetDevice,
			device: vf(func(d *Device) { d.Type, d.ID, d.AuxType = AuxNetDevice, "mlx5_core.sf.2", "sf" }),
		},
		"another type": {
			takes: `"vendors": ["8086"]`, refuses: `"vendors": ["15b3"]`, kind: Accelerator,
			device: vf(func(d *Device) { d.Type = Accelerator }),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			device, kind := test.device, test.kind
			if device == nil {
				device, kind = vf(nil), NetDevice
			}
			for selector, want := range map[string]bool{test.takes: true, test.refuses: false} {
				c := config(t, `{"resourceList": [{"resourceName": "a", "deviceType": "`+string(kind)+`", "selectors": {`+selector+`}}]}`)
				if got := c.Pools[0].takes(device); got != want {
					t.Errorf("{%s}: takes is %v, want %v", selector, got, want)
				}
			}
		})
	}
}

func config(t *testing.T, data string) *Config {
	t.Helper()
	c, _, err := Parse([]byte(data), "intel.com")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMatchPFItself(t *testing.T) {
	pf := vf(func(d *Device) { d.ID, d.PF, d.PFNames, d.Index = "0000:3b:00.0", "", nil, -1 })
	for _, selector := range []Selector{
		{PFNames: []Ranged{{PF: "ens785f0"}}},
		{RootDevices: []Ranged{{PF: "0000:3b:00.0"}}},
	} {
		if Match(&selector, pf) {
			t.Errorf("%+v takes the PF", selector)
		}
	}
}

const twoPools = `{"resourceList": [
	{"resourceName": "a", "selectors": [{"drivers": ["vfio-pci"]}, {"pfNames": ["ens785f0#0-2"]}]},
	{"resourceName": "b", "selectors": {"vendors": ["8086"]}, "allowAddressed": true}
]}`

func TestAssignAndExplain(t *testing.T) {
	const none = -1
	tests := map[string]struct {
		device *Device
		held   map[string]string
		pool   int
		why    []Refusal
	}{
		"first pool that takes it": {device: vf(nil), pool: 0, why: []Refusal{{"intel.com/b", "it fits, but intel.com/a comes first"}}},
		"second pool": {
			device: vf(func(d *Device) { d.Index = 3 }), pool: 1,
			why: []Refusal{{"intel.com/a", "drivers: it has iavf; pfNames: its index is not in ens785f0#0-2"}},
		},
		"no pool": {device: vf(func(d *Device) { d.Index, d.Vendor = 3, "15b3" }), pool: none, why: []Refusal{
			{"intel.com/a", "drivers: it has iavf; pfNames: its index is not in ens785f0#0-2"}, {"intel.com/b", "vendors: it has 15b3"},
		}},
		"reserved": {device: vf(func(d *Device) { d.Reserved = "the node's uplink" }), pool: none, why: []Refusal{
			{"intel.com/a", "the node's uplink"}, {"intel.com/b", "the node's uplink"},
		}},
		"without a driver": {device: vf(func(d *Device) { d.Driver = "" }), pool: none, why: []Refusal{
			{"intel.com/a", "no driver is bound to it"}, {"intel.com/b", "no driver is bound to it"},
		}},
		"addressed": {device: vf(func(d *Device) { d.Addressed = "it has the address 192.0.2.1/24" }), pool: 1, why: []Refusal{
			{"intel.com/a", "it has the address 192.0.2.1/24; set allowAddressed to offer it all the same"},
		}},
		"held elsewhere": {
			device: vf(nil), held: map[string]string{"0000:3b:02.2": "intel.com/b"}, pool: 1,
			why: []Refusal{{"intel.com/a", "a pod has it as intel.com/b"}},
		},
		"held as a resource that is gone": {
			device: vf(nil), held: map[string]string{"0000:3b:02.2": "intel.com/old"}, pool: none,
			why: []Refusal{{"intel.com/a", "a pod has it as intel.com/old"}, {"intel.com/b", "a pod has it as intel.com/old"}},
		},
		"of another type": {device: vf(func(d *Device) { d.Type = Accelerator }), pool: none, why: []Refusal{
			{"intel.com/a", "deviceType: it is of type accelerator"}, {"intel.com/b", "deviceType: it is of type accelerator"},
		}},
	}
	c := config(t, twoPools)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(Assignment{test.pool}, Assign(c, []*Device{test.device}, test.held)); diff != "" {
				t.Errorf("assignment (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.why, Explain(c, test.device, test.held)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
		})
	}
}
