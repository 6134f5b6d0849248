package offer_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/offer"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func report(t *testing.T, tree pcitest.Tree, configuration string, held map[string]string, names offer.Names) offer.Report {
	t.Helper()
	devices, err := inventory.Once(tree.Root, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, _, err := pool.Parse([]byte(configuration), "intel.com")
	if err != nil {
		t.Fatal(err)
	}
	return offer.NewReport(config, devices, held, names)
}

func printed(t *testing.T, r offer.Report) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReport(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 6)
	tree.AddIGB("03", "ens3", 20, 1)
	tree.Bind("0000:02:10.2", "vfio-pci")
	names := func(vendor, device string) (string, string) {
		return map[string]string{"8086": "Intel Corporation"}[vendor], map[string]string{"10ca": "82576 Virtual Function"}[device]
	}
	const configuration = `{"resourceList": [
		{"resourceName": "sriov", "selectors": {"drivers": ["igbvf"], "pfNames": ["ens2#0,3"]}},
		{"resourceName": "dpdk", "selectors": [{"drivers": ["vfio-pci"]}, {"pfNames": ["ens2#4"]}]}
	]}`
	r := report(t, tree, configuration, map[string]string{"0000:02:11.0": "intel.com/sriov"}, names)
	want := `DEVICE        ID         DRIVER    PF    VF  NUMA  RESOURCE         HEALTH
0000:02:00.0  8086:10c9  igb       -     -   0     -                -
0000:02:10.0  8086:10ca  igbvf     ens2  0   0     intel.com/sriov  healthy
0000:02:10.2  8086:10ca  vfio-pci  ens2  1   0     intel.com/dpdk   its driver is vfio-pci, but it has no vfio node: see whether the IOMMU is on
0000:02:10.4  8086:10ca  igbvf     ens2  2   0     -                -
0000:02:10.6  8086:10ca  igbvf     ens2  3   0     intel.com/sriov  healthy
0000:02:11.0  8086:10ca  igbvf     ens2  4   0     intel.com/sriov  healthy
0000:02:11.2  8086:10ca  igbvf     ens2  5   0     -                -
0000:03:00.0  8086:10c9  igb       -     -   0     -                -
0000:03:10.0  8086:10ca  igbvf     ens3  0   0     -                -

8086:10c9  Intel Corporation, ?
8086:10ca  Intel Corporation, 82576 Virtual Function

intel.com/sriov: 3 devices
intel.com/dpdk: 1 device, of which 1 unhealthy

Not in intel.com/sriov:
  it is a PF with 6 VFs, which are offered in its place
    0000:02:00.0
  drivers: it has vfio-pci
    ens2 VF 1
  pfNames: its index is not in ens2#0,3
    ens2 VF 2,5
  it is a PF with 1 VFs, which are offered in its place
    0000:03:00.0
  pfNames: it has ens3
    ens3 VF 0

Not in intel.com/dpdk:
  it is a PF with 6 VFs, which are offered in its place
    0000:02:00.0
  drivers: it has igbvf; pfNames: its index is not in ens2#4
    ens2 VF 0,2-3,5
  a pod has it as intel.com/sriov
    ens2 VF 4
  it is a PF with 1 VFs, which are offered in its place
    0000:03:00.0
  drivers: it has igbvf; pfNames: it has ens3
    ens3 VF 0
`
	if diff := cmp.Diff(want, printed(t, r)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	// A program gets every device with every refusal.
	if got, err := json.Marshal(r.Devices[3]); err != nil || string(got) != `{"id":"0000:02:10.4","type":"netDevice","vendor":"8086","device":"10ca",`+
		`"vendorName":"Intel Corporation","deviceName":"82576 Virtual Function","driver":"igbvf","pf":"0000:02:00.0","pfNames":["ens2"],"index":2,`+
		`"numaNode":0,"refusals":[{"resource":"intel.com/sriov","reason":"pfNames: its index is not in ens2#0,3"},`+
		`{"resource":"intel.com/dpdk","reason":"drivers: it has igbvf; pfNames: its index is not in ens2#4"}]}` {
		t.Errorf("JSON: %s %v", got, err)
	}
}

// 8 PFs with 32 VFs each: whoever reads it wants to see the pools and the reasons, not 264 addresses twice.
func TestReportOfManyDevices(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddLarge(8, 32)
	var pools []string
	for i := range 8 {
		pools = append(pools, fmt.Sprintf(`{"resourceName": "p%d", "selectors": {"pfNames": ["p%d#0-15"]}}`, i, i))
	}
	r := report(t, tree, `{"resourceList": [`+strings.Join(pools, ",")+`]}`, nil, nil)
	lines := strings.Split(printed(t, r), "\n")
	reasons := lines[1+len(r.Devices):]
	if len(r.Devices) != 8*33 || len(reasons) > 8*26 {
		t.Errorf("%d devices, and %d lines after them", len(r.Devices), len(reasons))
	}
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, d := range r.Devices {
		if want := len(r.Pools) - min(1, len(d.Resource)); len(d.Refusals) != want {
			t.Errorf("%s has %d refusals of %d pools", d.ID, len(d.Refusals), want)
		}
	}
}

func TestReportWithoutPools(t *testing.T) {
	got := printed(t, report(t, pcitest.New(t), `{"resourceList": []}`, nil, nil))
	if want := "\nThe configuration has no pools: nothing is offered.\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q", got)
	}
}
