package pci_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func TestReadNodes(t *testing.T) {
	const vf = "0000:02:10.0"
	tests := map[string]struct {
		make func(pcitest.Tree, string) // gets the function's folder
		want pci.Nodes
	}{
		"netdev": {func(pcitest.Tree, string) {}, pci.Nodes{}},
		"vfio": {
			func(t pcitest.Tree, dir string) {
				t.Write("sys/class/vfio/2020/dev", "240:0")
				t.Write(dir+"/vfio-dev/vfio0/uevent", "")
			},
			pci.Nodes{VFIO: &pci.VFIONodes{Container: "/dev/vfio/vfio", Group: "/dev/vfio/2020", InContainer: "/dev/vfio/2020"}},
		},
		"vfio with iommufd": {
			func(t pcitest.Tree, dir string) {
				t.Write("sys/class/vfio/2020/dev", "240:0")
				t.Write("sys/class/misc/iommu/dev", "10:1")
				t.Write(dir+"/vfio-dev/vfio0/dev", "511:0")
			},
			pci.Nodes{VFIO: &pci.VFIONodes{
				Container: "/dev/vfio/vfio", Group: "/dev/vfio/2020", InContainer: "/dev/vfio/2020",
				Device: "/dev/vfio/devices/vfio0", IOMMUFD: "/dev/iommu",
			}},
		},
		"vfio without IOMMU": {
			func(t pcitest.Tree, _ string) {
				t.Bind(vf, "vfio-pci")
				t.Write("sys/kernel/iommu_groups/2020/name", "vfio-noiommu")
				t.Write("sys/class/vfio/noiommu-2020/dev", "240:0")
			},
			pci.Nodes{VFIO: &pci.VFIONodes{Container: "/dev/vfio/vfio", Group: "/dev/vfio/noiommu-2020", InContainer: "/dev/vfio/2020"}},
		},
		"in the group of another's vfio": {
			func(t pcitest.Tree, _ string) { t.Write("sys/class/vfio/2020/dev", "240:0") },
			pci.Nodes{},
		},
		"uio": {func(t pcitest.Tree, dir string) { t.Write(dir+"/uio/uio3/dev", "1:1") }, pci.Nodes{UIO: "/dev/uio3"}},
		"RDMA": {
			func(t pcitest.Tree, dir string) {
				t.Write(dir+"/infiniband/mlx5_7/node_type", "1: CA")
				t.Write(dir+"/infiniband_verbs/uverbs7/ibdev", "mlx5_7")
				t.Write(dir+"/infiniband_mad/umad7/ibdev", "mlx5_7")
				t.Write(dir+"/infiniband_mad/issm7/ibdev", "mlx5_7")
				t.Write("sys/class/misc/rdma_cm/dev", "10:1")
			},
			pci.Nodes{
				RDMA: []pci.RDMANodes{{
					Name: "mlx5_7", Verbs: "/dev/infiniband/uverbs7", MAD: "/dev/infiniband/umad7", Issuer: "/dev/infiniband/issm7",
				}},
				RDMACM: "/dev/infiniband/rdma_cm",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 1)
			test.make(tree, tree.Dir(vf))
			if diff := cmp.Diff(test.want, pci.ReadNodes(tree.Root, address(t, vf))); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
		})
	}
}
