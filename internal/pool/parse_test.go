package pool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// parse is Parse with what a test wants to see of it: faults and warnings as lines.
func parse(data string) (c *Config, warnings, faults []string) {
	c, w, err := Parse([]byte(data), "intel.com")
	var f Faults
	if err != nil && !errors.As(err, &f) {
		return nil, nil, []string{"not Faults: " + err.Error()}
	}
	for _, x := range w {
		warnings = append(warnings, x.String())
	}
	for _, x := range f {
		faults = append(faults, x.String())
	}
	return c, warnings, faults
}

func TestParse(t *testing.T) {
	c, warnings, faults := parse(`{
  "resourceList": [
    {"resourceName": "sriov", "selectors": {"vendors": ["8086"], "devices": ["154C", "10ed"], "drivers": ["i40evf", "igbvf"]}},
    {"resourceName": "dpdk_1", "resourcePrefix": "example.org", "deviceType": "netDevice", "excludeTopology": true,
     "selectors": [{"pfNames": ["ens785f0#0-3,5,7", "eth1"]}, {"rootDevices": ["0000:3B:00.0#1"], "needVhostNet": true}],
     "additionalInfo": {"*": {"token": "a"}, "0000:3b:02.0": {"token": "b"}},
     "allocationPolicy": "spread", "healthCheck": {"pfLink": true}, "allowAddressed": true},
    {"resourceName": "fpga", "deviceType": "accelerator", "resourcePrefix": "", "selectors": {"pciAddresses": ["0000:05:00.0"], "acpiIndexes": ["101"]}},
    {"resourceName": "sf", "deviceType": "auxNetDevice", "selectors": {"auxTypes": ["sf"], "isRdma": true, "pfNames": ["p0#1-5"]}},
    {"resourceName": "ib", "selectors": {"linkTypes": ["infiniband"], "pKeys": ["0x8001"], "ddpProfiles": ["GTPv1-C/U IPv4/IPv6 payload"], "vdpaType": "vhost"}}
  ]
}`)
	if len(faults) != 0 {
		t.Fatalf("faults %q", faults)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings %q", warnings)
	}
	want := &Config{Pools: []Pool{
		{
			Resource: "intel.com/sriov", Type: NetDevice,
			Selectors: []Selector{{Vendors: []string{"8086"}, Devices: []string{"154c", "10ed"}, Drivers: []string{"i40evf", "igbvf"}}},
		},
		{
			Resource: "example.org/dpdk_1", Type: NetDevice, ExcludeTopology: true,
			Selectors: []Selector{
				{PFNames: []Ranged{{PF: "ens785f0", Ranges: []Range{{0, 3}, {5, 5}, {7, 7}}}, {PF: "eth1"}}},
				{RootDevices: []Ranged{{PF: "0000:3b:00.0", Ranges: []Range{{1, 1}}}}, NeedVhostNet: true},
			},
			AdditionalInfo: map[string]map[string]string{"*": {"token": "a"}, "0000:3b:02.0": {"token": "b"}},
			Spread:         true, PFLink: true, AllowAddressed: true,
		},
		{
			Resource: "intel.com/fpga", Type: Accelerator,
			Selectors: []Selector{{PCIAddresses: []string{"0000:05:00.0"}, ACPIIndexes: []string{"101"}}},
		},
		{
			Resource: "intel.com/sf", Type: AuxNetDevice,
			Selectors: []Selector{{AuxTypes: []string{"sf"}, IsRDMA: true, PFNames: []Ranged{{PF: "p0", Ranges: []Range{{1, 5}}}}}},
		},
		{
			Resource: "intel.com/ib", Type: NetDevice,
			Selectors: []Selector{{
				LinkTypes: []string{"infiniband"}, PKeys: []string{"0x8001"},
				DDPProfiles: []string{"GTPv1-C/U IPv4/IPv6 payload"}, VDPAType: "vhost",
			}},
		},
	}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestParseFaults(t *testing.T) {
	// pool is a file with one pool, whose entries are given.
	pool := func(entries string) string { return "{\"resourceList\": [{\n" + entries + "}]}" }
	tests := map[string]struct {
		in   string
		want []string
	}{
		"empty file":     {"", []string{"line 1: the file ends before the configuration does (it is empty, or cut off)"}},
		"cut off":        {"{\"resourceList\":\n[", []string{"line 2: the file ends before the configuration does (it is empty, or cut off)"}},
		"not JSON":       {"resourceList: []", []string{"line 1: this is not JSON: invalid character 'r' looking for beginning of value"}},
		"comma too many": {"{\"resourceList\": [\n{},]}", []string{"line 2: this is not JSON: invalid character ']' looking for beginning of value"}},
		"two values":     {"{}\n{}", []string{"line 2: there is something after the end of the configuration"}},
		"too deep":       {strings.Repeat("[", 100), []string{"line 1: it is nested more than 32 deep"}},
		"a list":         {"[]", []string{"line 1: want an object, not a list"}},
		"no list":        {"{}", []string{"line 1: it has no resourceList"}},
		"all at once": {
			`{"resourceList": [
{"resourceName": "a", "selectors": {"vendor": ["8086"]}},
{"resourceName": "b!", "selectors": {"vendors": "8086", "devices": [8086, "0x154c", "154"]}},
{"resourceName": "c"},
{"selectors": {"pfNames": ["eth0#3-1", "eth0#a", "#1", "eth0#", "eth0#-1"]}},
{"resourceName": "a", "deviceType": "netdev", "selectors": {"isRdma": "yes", "bogus_thing": 1}},
{"resourceName": "e", "resourcePrefix": "Intel.com", "selectors": {"rootDevices": ["3b:00.0"], "linkTypes": ["eth"]}}
]}`, []string{
				`line 2: resourceList[0].selectors.vendor: there is no such key for netDevice: did you mean vendors?`,
				`line 3: resourceList[1].resourceName: "b!" cannot be a resource: want letters, digits, - and _, 63 at most, with a letter or digit at both ends`,
				`line 3: resourceList[1].selectors.vendors: want a list, not a string`,
				`line 3: resourceList[1].selectors.devices[0]: want a string, not a number`,
				`line 3: resourceList[1].selectors.devices[1]: "0x154c": leave the 0x out`,
				`line 3: resourceList[1].selectors.devices[2]: "154" is no PCI id: want four hexadecimal digits such as 8086`,
				`line 4: resourceList[2].selectors: it is missing: without it the pool would take every device. Name at least one key, such as "vendors": ["8086"]`,
				`line 5: resourceList[3]: it has no resourceName`,
				`line 5: resourceList[3].selectors.pfNames[0]: the range "3-1" ends before it starts`,
				`line 5: resourceList[3].selectors.pfNames[1]: "a" is no VF index and no range: want such as ens785f0#0-3,5,7`,
				`line 5: resourceList[3].selectors.pfNames[2]: it is empty`,
				`line 5: resourceList[3].selectors.pfNames[3]: "" is no VF index and no range: want such as ens785f0#0-3,5,7`,
				`line 5: resourceList[3].selectors.pfNames[4]: "-1" is no VF index and no range: want such as ens785f0#0-3,5,7`,
				`line 6: resourceList[4].deviceType: "netdev" is not one of netDevice, accelerator, auxNetDevice: did you mean netDevice?`,
				`line 6: resourceList[4].selectors.bogus_thing: there is no such key for netDevice: want vendors, devices, drivers, pciAddresses, acpiIndexes, pfNames, rootDevices, linkTypes, ddpProfiles, pKeys, isRdma, needVhostNet, vdpaType`,
				`line 6: resourceList[4].selectors.isRdma: want true or false, not a string`,
				`line 6: resourceList[4]: intel.com/a is already the resource of resourceList[0]: put both selectors into a list in one entry`,
				`line 7: resourceList[5].resourcePrefix: "Intel.com" is no resource prefix: want a DNS name in lower case such as intel.com`,
				`line 7: resourceList[5].selectors.linkTypes[0]: "eth" is no link type: want ether or infiniband`,
				`line 7: resourceList[5].selectors.rootDevices[0]: invalid PCI address "3b:00.0": want domain:bus:device.function such as 0000:3b:02.0`,
			},
		},
		"near miss in a pool": {
			pool("\"resourceName\": \"a\",\n\"selector\": {\"vendors\": [\"8086\"]}"),
			[]string{
				`line 1: resourceList[0].selectors: it is missing: without it the pool would take every device. Name at least one key, such as "vendors": ["8086"]`,
				`line 3: resourceList[0].selector: there is no such key: did you mean selectors?`,
			},
		},
		"a key of another type": {
			pool(`"resourceName": "a", "deviceType": "accelerator", "selectors": {"pfNames": ["eth0"]}`),
			[]string{`line 2: resourceList[0].selectors.pfNames: there is no such key for accelerator: want vendors, devices, drivers, pciAddresses, acpiIndexes`},
		},
		"aux without types": {
			pool(`"resourceName": "a", "deviceType": "auxNetDevice", "selectors": {"vendors": ["15b3"]}`),
			[]string{`line 2: resourceList[0].selectors: auxTypes is missing: an auxNetDevice pool must say which, such as ["sf"]`},
		},
		"RDMA and vDPA": {
			pool(`"resourceName": "a", "selectors": {"isRdma": true, "vdpaType": "vhost"}`),
			[]string{`line 2: resourceList[0].selectors.vdpaType: it excludes isRdma: a device is offered as one or the other`},
		},
		"twice the same key": {
			pool("\"resourceName\": \"a\", \"selectors\": {\"vendors\": [\"8086\"],\n\"Vendors\": [\"15b3\"]}"),
			[]string{"line 3: resourceList[0].selectors.Vendors: it is there twice"},
		},
		"a selector's key in the pool": {
			pool(`"resourceName": "a", "isRdma": true, "selectors": {"vendors": ["15b3"]}`),
			[]string{"line 2: resourceList[0].isRdma: there is no such key here: it belongs into selectors"},
		},
		"information twice": {
			pool(`"resourceName": "a", "selectors": {}, "additionalInfo": {"0000:0A:00.0": {"a": "1", "a": "2"}, "0000:0a:00.0": {}}`),
			[]string{
				"line 2: resourceList[0].additionalInfo.0000:0A:00.0.a: it is there twice",
				"line 2: resourceList[0].additionalInfo.0000:0a:00.0: it is there twice",
			},
		},
		"no selectors": {
			pool(`"resourceName": "a", "selectors": []`),
			[]string{"line 2: resourceList[0].selectors: the list is empty: the pool could have no device"},
		},
		"information that is no text": {
			pool(`"resourceName": "a", "selectors": {}, "additionalInfo": {"*": {"x": 1}, "0000:00:00.0": "y"}`),
			[]string{
				"line 2: resourceList[0].additionalInfo.*.x: want a string, not a number",
				"line 2: resourceList[0].additionalInfo.0000:00:00.0: want an object of strings, not a string",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, _, faults := parse(test.in)
			if diff := cmp.Diff(test.want, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if c != nil {
				t.Errorf("there is a configuration all the same: %+v", c)
			}
		})
	}
}

func TestParseWarnings(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
	}{
		"keys in other cases": {
			"{\"ResourceList\": [\n{\"resourcename\": \"a\",\n\"selectors\": {\"pfnames\": [\"eth0#0-7\"]}}]}",
			[]string{
				"line 1: ResourceList: it is read as resourceList: write it so",
				"line 2: resourceList[0].resourcename: it is read as resourceName: write it so",
				"line 3: resourceList[0].selectors.pfnames: it is read as pfNames: write it so",
			},
		},
		"keys of another program, and no pools": {
			`{"resourceList": [{"resourceName": "a", "selectors": {"vendors": ["8086"]}, "SelectorObjs": null}]}`,
			[]string{"line 1: resourceList[0].SelectorObjs: it is passed over: to a device plugin it means nothing"},
		},
		"no pools": {`{"resourceList": null}`, []string{"line 1: resourceList: it has no pools: nothing is offered"}},
		"everything": {
			`{"resourceList": [{"resourceName": "a", "selectors": {"drivers": [], "vendors": null}}]}`,
			[]string{"line 1: resourceList[0].selectors: no key is set: it takes every netDevice"},
		},
		"unreachable by one": {
			pools(`{"pfNames": ["eth0#0-7"]}`, `{"pfNames": ["eth0#2-3"], "drivers": ["igbvf"]}`),
			[]string{"line 3: resourceList[1].selectors: it takes nothing: resourceList[0] (intel.com/p0) comes first and takes all of it"},
		},
		"unreachable by two": {
			pools(`{"pfNames": ["eth0#0-1", "eth1"]}`, `{"pfNames": ["eth0#2-5"]}`, `{"pfNames": ["eth0#1-4"], "drivers": ["igbvf"]}`),
			[]string{"line 4: resourceList[2].selectors: it takes nothing: " +
				"resourceList[0] (intel.com/p0) and resourceList[1] (intel.com/p1) come first and take all of it"},
		},
		"unreachable by drivers": {
			pools(`{"drivers": ["iavf"]}`, `{"drivers": ["vfio-pci"]}`, `{"drivers": ["vfio-pci", "iavf"], "vendors": ["8086"]}`),
			[]string{"line 4: resourceList[2].selectors: it takes nothing: " +
				"resourceList[1] (intel.com/p1) and resourceList[0] (intel.com/p0) come first and take all of it"},
		},
		"unreachable within a pool": {
			pools(`[{"vendors": ["8086"], "needVhostNet": true}, {"vendors": ["8086"], "devices": ["154c"]}]`),
			[]string{"line 2: resourceList[0].selectors[1]: it takes nothing: selectors[0] of the same pool comes first and takes all of it"},
		},
		"shared VFs": {
			pools(`{"pfNames": ["eth0#0-3"]}`, `{"pfNames": ["eth1", "eth0#3-7,2"]}`),
			[]string{"line 3: resourceList[1].selectors: eth0#2, eth0#3 is in resourceList[0] (intel.com/p0), too, which comes first and gets it"},
		},
		"shared addresses": {
			pools(`{"pciAddresses": ["0000:3b:02.0", "0000:3b:02.1"]}`, `{"pciAddresses": ["0000:3b:02.1", "0000:3b:02.2"]}`),
			[]string{"line 3: resourceList[1].selectors: 0000:3b:02.1 is in resourceList[0] (intel.com/p0), too, which comes first and gets it"},
		},
		"the rest of a PF":        {pools(`{"pfNames": ["eth0#0-3"]}`, `{"pfNames": ["eth0"]}`), nil},
		"one PF, two drivers":     {pools(`{"pfNames": ["eth0#0-3"], "drivers": ["a"]}`, `{"pfNames": ["eth0#2-5"], "drivers": ["b"]}`), nil},
		"a part of what is there": {pools(`{"drivers": ["a"]}`, `{"drivers": ["a", "b"]}`), nil},
		"addressed ones are left": {
			`{"resourceList": [{"resourceName": "a", "selectors": {"vendors": ["8086"]}}, {"resourceName": "b", "selectors": {"vendors": ["8086"]}, "allowAddressed": true}]}`,
			nil,
		},
		"one variable for two": {
			`{"resourceList": [{"resourceName": "a-b", "selectors": {"vendors": ["8086"]}},
{"resourceName": "A_b", "selectors": {"vendors": ["15b3"]}}]}`,
			[]string{"line 2: resourceList[1]: a pod with intel.com/a-b and with intel.com/A_b sees only one of them: both are told in PCIDEVICE_INTEL_COM_A_B"},
		},
		"information for nobody": {
			`{"resourceList": [{"resourceName": "a", "selectors": {"vendors": ["8086"]}, "additionalInfo": {"ens1": {"k": "v"}}}]}`,
			[]string{`line 1: resourceList[0].additionalInfo.ens1: it is for no device: want "*" for all of them, or a PCI address such as 0000:3b:02.0`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, warnings, faults := parse(test.in)
			if len(faults) != 0 {
				t.Fatal(faults)
			}
			if diff := cmp.Diff(test.want, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// What is odd is said beside what is wrong, but for pools with a fault: what those would take nobody knows.
func TestWarningsBesideFaults(t *testing.T) {
	c, warnings, faults := parse(pools(`{"Vendors": ["8086"]}`, `{"vendors": ["8086"], "devices": ["10ca"]}`, `{"vendors": ["8086"], "device": ["10ca"]}`, `{}`))
	if c != nil || len(faults) != 1 {
		t.Errorf("faults %q", faults)
	}
	want := []string{
		"line 2: resourceList[0].selectors.Vendors: it is read as vendors: write it so",
		"line 3: resourceList[1].selectors: it takes nothing: resourceList[0] (intel.com/p0) comes first and takes all of it",
		"line 5: resourceList[3].selectors: no key is set: it takes every netDevice",
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// pools is a file with pools p0, p1, … of these selectors, one a line, from line 2 on.
func pools(selectors ...string) string {
	var lines []string
	for i, s := range selectors {
		lines = append(lines, fmt.Sprintf("{\"resourceName\": \"p%d\", \"selectors\": %s}", i, s))
	}
	return "{\"resourceList\": [\n" + strings.Join(lines, ",\n") + "]}"
}

// A file as large as can be must not keep the daemon busy, nor drown its log.
func TestParseIsBounded(t *testing.T) {
	many := func(n int, item func(i int) string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(item(i))
		}
		return b.String()
	}
	hex := func(i int) string { return fmt.Sprintf("%q", fmt.Sprintf("%04x", i%0x10000)) }
	tests := map[string]struct {
		in, want  string // the last fault, or warning
		faults    bool
		atMostNum int
	}{
		"too large":       {strings.Repeat(" ", maxSize+1), "line 1: it has 1048577 bytes: want 1048576 at most", true, 1},
		"faults":          {"{\"resourceList\": [\n" + many(400, func(int) string { return "1" }) + "]}", "line 2: and 300 more from here on", true, maxFaults + 1},
		"pools":           {"{\"resourceList\": [" + many(10000, func(int) string { return "{}" }) + "]}", "line 1: resourceList: it has 10000 pools: want 512 at most", true, 1},
		"selectors":       {pools("[" + many(5000, func(int) string { return "{}" }) + "]"), "line 2: resourceList[0].selectors: the file has more than 2048 selectors", true, 1},
		"lines":           {"[" + strings.Repeat("\n1,", 300000) + "1]", "line 1: want an object, not a list", true, 1},
		"a very long key": {"{\"" + strings.Repeat("x", 900000) + "\": 1}", "", true, 1},
		"values": {
			"{\"resourceList\": [" + many(60, func(p int) string {
				return fmt.Sprintf(`{"resourceName": "p%d", "selectors": [`, p) + many(30, func(s int) string {
					return `{"devices": [` + many(60, func(i int) string { return hex(p*1800 + s*60 + i) }) + `]}`
				}) + "]}"
			}) + "]}",
			"line 1: it has too many values to look for selectors that never take anything", false, maxFaults + 1,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, warnings, faults := parse(test.in)
			said := warnings
			if test.faults {
				said = faults
			}
			if (c == nil) != test.faults || len(said) > test.atMostNum {
				t.Fatalf("%d warnings, %d faults", len(warnings), len(faults))
			}
			if test.want != "" && (len(said) == 0 || !strings.HasPrefix(said[len(said)-1], test.want)) {
				t.Errorf("got %.300q, want %q", said, test.want)
			}
		})
	}
}

// FuzzParse looks for a panic, for a configuration beside faults, and for faults without a line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "{}", "[]", `{"resourceList":[{"resourceName":"a","selectors":{"vendors":["8086"],"pfNames":["a#0-1"]}}]}`,
		`{"resourceList":[{"resourceName":"a","deviceType":"auxNetDevice","selectors":[{"auxTypes":["sf"]},null]}]}`,
		`{"resourceList":[null,1,"a",{"additionalInfo":{"*":{"a":"b"}},"healthCheck":{"pfLink":true}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, warnings, err := Parse(data, "intel.com")
		var faults Faults
		if (c == nil) != (err != nil) || err != nil && !errors.As(err, &faults) {
			t.Fatalf("%v with %v", c, err)
		}
		if c != nil {
			devices := []*Device{vf(nil), {ID: "mlx5_core.sf.4", Type: AuxNetDevice, AuxType: "sf", Driver: "mlx5_core"}}
			for i, p := range Assign(c, devices, nil) {
				if refusals := Explain(c, devices[i], nil); p < 0 && len(refusals) != len(c.Pools) {
					t.Errorf("%d pools, %d refusals", len(c.Pools), len(refusals))
				}
			}
		}
		for _, fault := range slices.Concat(faults, warnings) {
			if fault.Line < 1 || fault.Message == "" {
				t.Errorf("%+v", fault)
			}
		}
	})
}
