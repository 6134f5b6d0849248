package sriov

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// Which VFs of real machines' NICs have an interface, and through which of their PF's interfaces they are set: in switchdev
// mode it holds the representors of its VFs and subfunctions, too.
func TestDevices(t *testing.T) {
	type view struct {
		PF     string
		Driver string // of the PF
		Index  int    // of the PF's interface
		VF     int
		Netdev bool
	}
	got := map[string]view{}
	for _, tree := range []string{"mlx5-switchdev", "mlx5-legacy", "ice", "vfio", "uio"} {
		root := pcitest.Load(t, tree).Root
		s, err := pci.Scan(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range s.Devices() {
			d := &device{p: &Plugin{Root: root}}
			if !found.IsVF() || d.read(found.Address) != nil {
				continue
			}
			_ = d.findPF() // what it did not find is empty
			got[tree+" "+d.vf.Driver+" "+d.key()] = view{d.pfName, d.pfDriver, d.pf.Index, d.id.Index, d.hasNetdev()}
		}
	}
	want := map[string]view{
		"ice iavf 0000:3b:01.0":                 {PF: "ens1f0", Driver: "ice", Index: 4, Netdev: true},
		"ice iavf 0000:3b:01.1":                 {PF: "ens1f0", Driver: "ice", Index: 4, VF: 1, Netdev: true},
		"mlx5-legacy mlx5_core 0000:5e:00.2":    {PF: "ens2f0np0", Driver: "mlx5_core", Index: 4, Netdev: true},
		"mlx5-legacy mlx5_core 0000:5e:00.3":    {PF: "ens2f0np0", Driver: "mlx5_core", Index: 4, VF: 1, Netdev: true},
		"mlx5-switchdev mlx5_core 0000:08:00.2": {PF: "enp8s0f0np0", Driver: "mlx5_core", Index: 4, Netdev: true},
		"mlx5-switchdev mlx5_core 0000:08:00.3": {PF: "enp8s0f0np0", Driver: "mlx5_core", Index: 4, VF: 1}, // vDPA, by a name of the user's choice
		"uio  0000:3d:02.2":                     {PF: "ens785f0", Driver: "i40e", Index: 4, VF: 2},
		"uio igb_uio 0000:3d:02.0":              {PF: "ens785f0", Driver: "i40e", Index: 4},
		"uio uio_pci_generic 0000:3d:02.1":      {PF: "ens785f0", Driver: "i40e", Index: 4, VF: 1},
		"vfio mlx5_vfio_pci 0000:65:00.2":       {PF: "ens4np0", Driver: "mlx5_core", Index: 5},
		"vfio vfio-pci 0000:17:01.0":            {PF: "ens3f0", Driver: "ice", Index: 4},
		"vfio vfio-pci 0000:17:01.1":            {PF: "ens3f0", Driver: "ice", Index: 4, VF: 1},
		"vfio vfio-pci 0000:b4:00.0":            {}, // an accelerator's, whose PF has no interface
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A variant driver of vfio is told by what it makes, whatever it is called.
func TestVariantDriver(t *testing.T) {
	tree := pcitest.New(t)
	vf := tree.AddIGB("02", "ens2", 4, 1)[0]
	tree.RemoveNet(vf, "ens2v0")
	tree.Bind(vf, "vendor-migration")
	address, err := pci.ParseAddress(vf)
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range []bool{false, true} {
		if variant {
			tree.Write(tree.Dir(vf)+"/vfio-dev/vfio0/dev", "510:0")
		}
		d := &device{p: &Plugin{Root: tree.Root}}
		if err := d.read(address); err != nil {
			t.Fatal(err)
		}
		if d.hasNetdev() == variant {
			t.Errorf("a variant of vfio %v, has an interface %v", variant, d.hasNetdev())
		}
	}
}
