package pci_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

const hostedPF, hostedVF = "0000:02:00.0", "0000:02:10.0"

// hostedTree has a PF with a VF, which has a vDPA device for the kernel, and two subfunctions, of which the second has a
// vDPA device for processes.
func hostedTree(t *testing.T) pcitest.Tree {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 1)
	v := tree.AddVDPA(tree.Dir(hostedVF), "blue", "virtio_vdpa")
	tree.Write(v+"/virtio3/net/eth9/ifindex", "9")
	tree.Write(v+"/virtio3/net/eth9/type", "1")
	tree.AddSubfunction(hostedPF, "mlx5_core.sf.2", 88, pcitest.Net{Name: "ens2s88", Index: 20})
	second := tree.AddSubfunction(hostedPF, "mlx5_core.sf.3", 89, pcitest.Net{})
	tree.Write(second+"/infiniband/mlx5_3/node_type", "1: CA")
	v = tree.AddVDPA(second, "vdpa0", "vhost_vdpa")
	tree.Write(v+"/vhost-vdpa-0/dev", "511:0")
	// What its own driver is made of, and what is on no PCI function at all.
	tree.AddSubfunction(hostedPF, "mlx5_core.eth.0", 0, pcitest.Net{})
	tree.AddVDPA("sys/devices/vdpasim_net", "vdpa1", "vhost_vdpa")
	return tree
}

func wantHosted() (*pci.VDPA, []pci.Subfunction) {
	return &pci.VDPA{Name: "blue", Driver: "virtio_vdpa", Netdevs: []pci.Netdev{{Name: "eth9", Index: 9, Type: 1}}},
		[]pci.Subfunction{
			{Name: "mlx5_core.sf.2", Number: 88, Driver: "mlx5_core.sf", Netdevs: []pci.Netdev{{Name: "ens2s88", Index: 20, Type: 1}}},
			{
				Name: "mlx5_core.sf.3", Number: 89, Driver: "mlx5_core.sf", RDMA: []string{"mlx5_3"},
				VDPA: &pci.VDPA{Name: "vdpa0", Driver: "vhost_vdpa", Node: "/dev/vhost-vdpa-0"},
			},
		}
}

// A scan finds them by their buses, and a single read in the function's folder: both see the same.
func TestHosted(t *testing.T) {
	tree := hostedTree(t)
	snapshot, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	wantVDPA, wantSubfunctions := wantHosted()
	pf, vf := snapshot.Device(address(t, hostedPF)), snapshot.Device(address(t, hostedVF))
	if diff := cmp.Diff(wantSubfunctions, pf.Subfunctions); diff != "" || pf.VDPA != nil {
		t.Errorf("PF (-want +got):\n%s%+v", diff, pf.VDPA)
	}
	if diff := cmp.Diff(wantVDPA, vf.VDPA); diff != "" || vf.Subfunctions != nil {
		t.Errorf("VF (-want +got):\n%s%+v", diff, vf.Subfunctions)
	}
	for _, d := range []*pci.Device{pf, vf} {
		read, err := pci.Read(tree.Root, d.Address)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, read); diff != "" {
			t.Errorf("scan and read differ (-scan +read):\n%s", diff)
		}
	}
}

func TestRefreshHosted(t *testing.T) {
	tree := hostedTree(t)
	before, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	tree.BindHosted(tree.Dir(hostedVF)+"/blue", "vdpa", "")
	tree.Remove(tree.Dir(hostedVF) + "/blue/virtio3")
	tree.Remove(tree.Dir(hostedPF) + "/mlx5_core.sf.2")
	tree.Remove("sys/bus/auxiliary/devices/mlx5_core.sf.2")
	after, err := before.Refresh(tree.Root, address(t, hostedPF), address(t, hostedVF))
	if err != nil {
		t.Fatal(err)
	}
	_, wantSubfunctions := wantHosted()
	if diff := cmp.Diff(wantSubfunctions[1:], after.Device(address(t, hostedPF)).Subfunctions); diff != "" {
		t.Errorf("PF (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&pci.VDPA{Name: "blue"}, after.Device(address(t, hostedVF)).VDPA); diff != "" {
		t.Errorf("VF (-want +got):\n%s", diff)
	}
}

func TestReadSubfunction(t *testing.T) {
	tree := hostedTree(t)
	d, sf, err := pci.ReadSubfunction(tree.Root, "mlx5_core.sf.3")
	if err != nil {
		t.Fatal(err)
	}
	_, want := wantHosted()
	if diff := cmp.Diff(&want[1], sf); diff != "" || d.Address.String() != hostedPF {
		t.Errorf("on %s (-want +got):\n%s", d.Address, diff)
	}
	nodes := pci.ReadSubfunctionNodes(tree.Root, "mlx5_core.sf.3")
	if diff := cmp.Diff(pci.Nodes{RDMA: []pci.RDMANodes{{Name: "mlx5_3"}}}, nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	for _, name := range []string{"mlx5_core.sf.4", "mlx5_core.eth.0", "../../x.sf.1", "x/y.sf.1", "", "0000:02:10.0", "mlx5_core.sf.-1"} {
		if _, _, err := pci.ReadSubfunction(tree.Root, name); !errors.Is(err, pci.ErrNoDevice) {
			t.Errorf("%q: got %v, want ErrNoDevice", name, err)
		}
		if nodes := pci.ReadSubfunctionNodes(tree.Root, name); nodes.RDMA != nil {
			t.Errorf("%q has nodes: %+v", name, nodes)
		}
	}
}

func TestRepresentor(t *testing.T) {
	d := pci.Device{Netdevs: []pci.Netdev{
		{Name: "ens1", PhysPortName: "p1"},
		{Name: "dpu", PhysPortName: "c1pf1vf2"},
		{Name: "r12", PhysPortName: "pf1vf12"},
		{Name: "r2", PhysPortName: "pf1vf2"},
		{Name: "s88", PhysPortName: "pf1sf88"},
		{Name: "odd", PhysPortName: "pfvf3"},
	}}
	for vf, want := range map[int]string{2: "r2", 12: "r12", 1: "", 3: "", 88: ""} {
		if got, ok := d.Representor(vf); got.Name != want || ok != (want != "") {
			t.Errorf("VF %d: got %q, want %q", vf, got.Name, want)
		}
	}
	for number, want := range map[int]string{88: "s88", 2: "", 8: ""} {
		if got, ok := d.SubfunctionRepresentor(number); got.Name != want || ok != (want != "") {
			t.Errorf("subfunction %d: got %q, want %q", number, got.Name, want)
		}
	}
}
