package inventory

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// The tree's PF ens2 has interface index 4, its VFs 5 and 6.
func links() map[int]netlinks.NodeLink {
	return map[int]netlinks.NodeLink{
		4: {Name: "ens2", AltNames: []string{"enp2s0"}, Up: true}, 5: {Name: "ens2v0"}, 6: {Name: "ens2v1"},
	}
}

func view(t *testing.T, v *viewer, tree pcitest.Tree, links map[int]netlinks.NodeLink) map[string]*Device {
	t.Helper()
	snapshot, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	for index := range 100 {
		v.touch(index) // the tests change links at will
	}
	devices, odd := v.view(snapshot, links)
	if odd != nil {
		t.Errorf("odd: %v", odd)
	}
	v.settle()
	byID := map[string]*Device{}
	for _, d := range devices {
		byID[d.ID] = d
	}
	return byID
}

const vf = "0000:02:10.0"

func healthyVF() *Device {
	return &Device{Device: pool.Device{
		ID: vf, Type: pool.NetDevice, Vendor: "8086", Product: "10ca", Driver: "igbvf", PF: "0000:02:00.0",
		PFNames: []string{"ens2", "enp2s0"}, LinkType: "ether",
	}}
}

func TestView(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	devices := view(t, newViewer(), tree, links())
	if diff := cmp.Diff(healthyVF(), devices[vf]); diff != "" {
		t.Errorf("VF (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("it is a PF with 2 VFs, which are offered in its place", devices["0000:02:00.0"].Reserved); diff != "" {
		t.Errorf("PF (-want +got):\n%s", diff)
	}
}

// Each case changes the node after a first look, and says what of the VF differs then.
func TestViewAfterAChange(t *testing.T) {
	tests := map[string]struct {
		change func(pcitest.Tree, map[int]netlinks.NodeLink)
		want   func(*Device)
	}{
		"moved into a pod": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) { tree.RemoveNet(vf, "ens2v0") },
			func(*Device) {},
		},
		"moved into a pod while the PF is away": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
				tree.RemoveNet(vf, "ens2v0")
				tree.RemoveNet("0000:02:00.0", "ens2")
			},
			func(*Device) {},
		},
		"driver unbound": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) { tree.Bind(vf, ""); tree.RemoveNet(vf, "ens2v0") },
			func(d *Device) { d.Unhealthy = "no driver is bound to it; igbvf was" },
		},
		"driver changed": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
				tree.Bind(vf, "vfio-pci")
				tree.RemoveNet(vf, "ens2v0")
				tree.Write("sys/class/vfio/2020/dev", "240:0")
			},
			func(d *Device) { d.Driver = "vfio-pci" },
		},
		"driver changed, without a node": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
				tree.Bind(vf, "vfio-pci")
				tree.RemoveNet(vf, "ens2v0")
			},
			func(d *Device) {
				d.Driver = "vfio-pci"
				d.Unhealthy = "its driver is vfio-pci, but it has no vfio node: see whether the IOMMU is on"
			},
		},
		"PF renamed": {
			func(tree pcitest.Tree, links map[int]netlinks.NodeLink) {
				tree.RemoveNet("0000:02:00.0", "ens2")
				tree.AddNet("0000:02:00.0", pcitest.Net{Name: "sriov0", Index: 4})
				links[4] = netlinks.NodeLink{Name: "sriov0", Up: true}
			},
			func(d *Device) { d.PFNames = []string{"sriov0"} },
		},
		"PF without carrier": {
			func(_ pcitest.Tree, links map[int]netlinks.NodeLink) {
				links[4] = netlinks.NodeLink{Name: "ens2", AltNames: []string{"enp2s0"}}
			},
			func(d *Device) { d.PFDown = true },
		},
		"address set": {
			func(_ pcitest.Tree, links map[int]netlinks.NodeLink) {
				links[5] = netlinks.NodeLink{Name: "ens2v0", Addressed: "it has the address 192.0.2.1/24"}
			},
			func(d *Device) { d.Addressed = "ens2v0 is in use by the node: it has the address 192.0.2.1/24" },
		},
		"vDPA device made": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
				tree.AddVDPA(tree.Dir(vf), "vdpa0", "vhost_vdpa")
			},
			func(d *Device) { d.VDPAType = "vhost" },
		},
		"became the uplink by its vDPA device": {
			func(tree pcitest.Tree, links map[int]netlinks.NodeLink) {
				dir := tree.AddVDPA(tree.Dir(vf), "vdpa0", "virtio_vdpa")
				tree.Write(dir+"/virtio1/net/eth7/ifindex", "7")
				links[7] = netlinks.NodeLink{Name: "eth7", Uplink: "an IPv4 default route goes through it"}
			},
			func(d *Device) {
				d.VDPAType = "virtio"
				d.Reserved = "eth7 carries the node's own traffic: an IPv4 default route goes through it"
			},
		},
		"became the uplink": {
			func(_ pcitest.Tree, links map[int]netlinks.NodeLink) {
				links[5] = netlinks.NodeLink{Name: "ens2v0", Uplink: "an IPv6 default route goes through it"}
			},
			func(d *Device) {
				d.Reserved = "ens2v0 carries the node's own traffic: an IPv6 default route goes through it"
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 2)
			v, l := newViewer(), links()
			view(t, v, tree, l)
			test.change(tree, l)
			want := healthyVF()
			test.want(want)
			if diff := cmp.Diff(want, view(t, v, tree, l)[vf]); diff != "" {
				t.Errorf("VF (-want +got):\n%s", diff)
			}
		})
	}
}

const sf = "mlx5_core.sf.2"

func healthySF() *Device {
	return &Device{Device: pool.Device{
		ID: sf, Type: pool.AuxNetDevice, AuxType: "sf", Vendor: "8086", Product: "10c9", Driver: "igb", PF: "0000:02:00.0",
		PFNames: []string{"ens2", "enp2s0"}, Index: 88, LinkType: "ether", RDMA: true, VDPAType: "vhost",
	}}
}

func TestViewOfSubfunctions(t *testing.T) {
	tests := map[string]struct {
		change func(tree pcitest.Tree, links map[int]netlinks.NodeLink, dir string)
		want   func(*Device)
	}{
		"nothing": {func(pcitest.Tree, map[int]netlinks.NodeLink, string) {}, func(*Device) {}},
		"moved into a pod": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink, dir string) {
				tree.Remove(dir + "/net")
				tree.Remove(dir + "/infiniband")
			},
			func(*Device) {},
		},
		"driver unbound": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink, dir string) {
				tree.BindHosted(dir, "auxiliary", "")
				tree.Remove(dir + "/net")
			},
			func(d *Device) { d.Unhealthy = "no driver is bound to it; mlx5_core.sf was" },
		},
		"driver of its vDPA device unbound": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink, dir string) {
				tree.BindHosted(dir+"/vdpa0", "vdpa", "")
			},
			func(d *Device) { d.Unhealthy = "no driver is bound to its vDPA device; vhost_vdpa was" },
		},
		"vDPA device given to the kernel": {
			func(tree pcitest.Tree, _ map[int]netlinks.NodeLink, dir string) {
				tree.BindHosted(dir+"/vdpa0", "vdpa", "virtio_vdpa")
			},
			func(d *Device) { d.VDPAType = "virtio" },
		},
		"became the uplink": {
			func(_ pcitest.Tree, links map[int]netlinks.NodeLink, _ string) {
				links[20] = netlinks.NodeLink{Name: "ens2s88", Uplink: "an IPv4 default route goes through it"}
			},
			func(d *Device) {
				d.Reserved = "ens2s88 carries the node's own traffic: an IPv4 default route goes through it"
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 0)
			dir := tree.AddSubfunction("0000:02:00.0", sf, 88, pcitest.Net{Name: "ens2s88", Index: 20})
			tree.Write(dir+"/infiniband/mlx5_2/node_type", "1: CA")
			tree.AddVDPA(dir, "vdpa0", "vhost_vdpa")
			v, l := newViewer(), links()
			l[20] = netlinks.NodeLink{Name: "ens2s88"}
			devices := view(t, v, tree, l)
			if diff := cmp.Diff("it has 1 subfunctions, which are offered in its place", devices["0000:02:00.0"].Reserved); diff != "" {
				t.Errorf("PF (-want +got):\n%s", diff)
			}
			test.change(tree, l, dir)
			want := healthySF()
			test.want(want)
			if diff := cmp.Diff(want, view(t, v, tree, l)[sf]); diff != "" {
				t.Errorf("subfunction (-want +got):\n%s", diff)
			}
		})
	}
}

// What is seen while the kernel is at work on a device is not believed.
func TestViewFindsDevicesOnTheMove(t *testing.T) {
	tests := map[string]func(pcitest.Tree, map[int]netlinks.NodeLink){
		"interface not among the links": func(_ pcitest.Tree, l map[int]netlinks.NodeLink) { delete(l, 5) },
		"VF about to be removed": func(tree pcitest.Tree, _ map[int]netlinks.NodeLink) {
			tree.Remove(tree.Dir("0000:02:00.0") + "/virtfn0")
			tree.Remove(tree.Dir(vf) + "/physfn")
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", 4, 2)
			v, l := newViewer(), links()
			view(t, v, tree, l)
			change(tree, l)
			snapshot, err := pci.Scan(tree.Root)
			if err != nil {
				t.Fatal(err)
			}
			_, odd := v.view(snapshot, l)
			if len(odd) != 1 || odd[0].String() != vf {
				t.Errorf("odd: %v, want %s", odd, vf)
			}
		})
	}
}

// VFs are often remade, in another number. The PF as a whole is not for pods in between.
func TestPFBetweenTwoSetsOfVFs(t *testing.T) {
	const pf = "0000:02:00.0"
	tree, v, now := pcitest.New(t), newViewer(), time.Now()
	v.now = func() time.Time { return now }
	tree.AddIGB("02", "ens2", 4, 2)
	view(t, v, tree, links())
	tree.RemoveVFs(pf)
	snapshot, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	reserved := func() bool {
		devices, _ := v.view(snapshot, links())
		return devices[0].Reserved != ""
	}
	if !reserved() {
		t.Error("the PF is offered as soon as its VFs are gone")
	}
	now = now.Add(whole)
	if reserved() {
		t.Error("the PF is not offered when its VFs are long gone")
	}
}
