package pool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// Which devices of real NICs' trees a selector takes, from the files to the pool.
func TestSelectorsOnTrees(t *testing.T) {
	tests := map[string]struct {
		tree, kind, selector string
		want                 []string
	}{
		"VFs by PF name": {
			tree: "ixgbe", selector: `"pfNames": ["ens785f0"]`, want: []string{"0000:04:10.0", "0000:04:10.2"},
		},
		"VFs by index":              {tree: "ixgbe", selector: `"pfNames": ["ens785f0#1-3"]`, want: []string{"0000:04:10.2"}},
		"a PF without VFs":          {tree: "ixgbe", selector: `"drivers": ["ixgbe"]`, want: []string{"0000:04:00.1"}},
		"by ACPI index":             {tree: "ixgbe", selector: `"acpiIndexes": ["101", "102"]`, want: []string{"0000:04:00.1"}},
		"a PF is not its own":       {tree: "ixgbe", selector: `"pfNames": ["ens785f1"]`},
		"soft RDMA is nobody's":     {tree: "ice", selector: `"isRdma": true`},
		"RDMA":                      {tree: "mlx5-legacy", selector: `"isRdma": true`, want: []string{"0000:5e:00.2", "0000:5e:00.3"}},
		"behind representors":       {tree: "mlx5-switchdev", selector: `"pfNames": ["enp8s0f0np0#0"]`, want: []string{"0000:08:00.2"}},
		"a representor is no PF":    {tree: "mlx5-switchdev", selector: `"pfNames": ["enp8s0f0npf0vf0"]`},
		"vDPA":                      {tree: "mlx5-switchdev", selector: `"vdpaType": "vhost"`, want: []string{"0000:08:00.3"}},
		"vDPA of the other type":    {tree: "mlx5-switchdev", selector: `"vdpaType": "virtio"`},
		"vDPA by virtio":            {tree: "virtio", selector: `"vdpaType": "virtio"`, want: []string{"0000:00:05.0"}},
		"vDPA by vhost":             {tree: "virtio", selector: `"vdpaType": "vhost", "vendors": ["1af4"]`, want: []string{"0000:00:04.0"}},
		"subfunctions":              {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"]`, want: []string{"mlx5_core.sf.4", "mlx5_core.sf.5"}},
		"subfunctions by number":    {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"], "pfNames": ["enp8s0f0np0#89"]`, want: []string{"mlx5_core.sf.5"}},
		"subfunctions by root":      {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"], "rootDevices": ["0000:08:00.0#80-88"]`, want: []string{"mlx5_core.sf.4"}},
		"subfunctions of a driver":  {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"], "drivers": ["mlx5_core"], "devices": ["101d"]`, want: []string{"mlx5_core.sf.4", "mlx5_core.sf.5"}},
		"subfunctions with RDMA":    {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"], "isRdma": true`, want: []string{"mlx5_core.sf.4"}},
		"subfunctions by link type": {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["sf"], "linkTypes": ["ether"]`, want: []string{"mlx5_core.sf.4", "mlx5_core.sf.5"}},
		"no other auxiliary device": {tree: "mlx5-switchdev", kind: "auxNetDevice", selector: `"auxTypes": ["eth", "vnet"]`},
		"InfiniBand":                {tree: "infiniband", selector: `"linkTypes": ["infiniband"]`, want: []string{"0000:86:00.1", "0000:86:00.2"}},
		"partition key":             {tree: "infiniband", selector: `"pKeys": ["0x8001"]`, want: []string{"0000:86:00.1"}},
		"vfio, usable or not":       {tree: "vfio", selector: `"drivers": ["vfio-pci", "mlx5_vfio_pci"]`, want: []string{"0000:17:01.0", "0000:17:01.1", "0000:65:00.2"}},
		"accelerators":              {tree: "vfio", kind: "accelerator", selector: `"vendors": ["8086"], "devices": ["0d5c", "0d5d"]`, want: []string{"0000:b4:00.0"}},
		"uio, unbound ones not":     {tree: "uio", selector: `"vendors": ["8086"]`, want: []string{"0000:3d:02.0", "0000:3d:02.1"}},
		"no-IOMMU":                  {tree: "no-iommu", selector: `"drivers": ["vfio-pci"]`, want: []string{"0000:01:10.2"}},
		"PCI domain":                {tree: "two-numa-nodes", selector: `"rootDevices": ["10000:af:00.0"]`, want: []string{"10000:af:02.0"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			kind := test.kind
			if kind == "" {
				kind = "netDevice"
			}
			c, _, err := pool.Parse([]byte(`{"resourceList": [{"resourceName": "a", "deviceType": "`+kind+`", "selectors": {`+test.selector+`}}]}`), "intel.com")
			if err != nil {
				t.Fatal(err)
			}
			all, err := inventory.Once(pcitest.Load(t, test.tree).Root, nil)
			if err != nil {
				t.Fatal(err)
			}
			devices := make([]*pool.Device, len(all))
			for i, d := range all {
				devices[i] = &d.Device
			}
			var got []string
			for i, p := range pool.Assign(c, devices, nil) {
				if p == 0 {
					got = append(got, devices[i].ID)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices of the pool (-want +got):\n%s", diff)
			}
		})
	}
}
