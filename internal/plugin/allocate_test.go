package plugin_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func (f *fixture) allocate(t *testing.T, ids ...string) (*deviceplugin.ContainerAllocateResponse, error) {
	t.Helper()
	return f.allocateOf(t, 0, ids...)
}

// allocateOf asks the n-th resource's server, by name.
func (f *fixture) allocateOf(t *testing.T, n int, ids ...string) (*deviceplugin.ContainerAllocateResponse, error) {
	t.Helper()
	kubelettest.Eventually(t, "there is a socket", func() bool { return f.set.Status()[n].Registered })
	conn, err := kubelettest.Dial(f.set.Status()[n].Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	response, err := deviceplugin.NewDevicePluginClient(conn).Allocate(t.Context(), &deviceplugin.AllocateRequest{
		ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}},
	})
	if err != nil {
		return nil, err
	}
	return response.GetContainerResponses()[0], nil
}

func nodes(r *deviceplugin.ContainerAllocateResponse) []string {
	var nodes []string
	for _, d := range r.GetDevices() {
		nodes = append(nodes, d.GetHostPath()+" "+d.GetContainerPath()+" "+d.GetPermissions())
	}
	return nodes
}

type topics = map[string]map[string]string

const vf0, vf1, sf = "0000:02:10.0", "0000:02:10.2", "mlx5_core.sf.4"

func TestAllocate(t *testing.T) {
	tests := map[string]struct {
		make  func(tree pcitest.Tree, dir string) // gets the VF's folder
		id    string                              // the VF's if empty
		needs plugin.Needs
		nodes []string
		info  topics // beside generic
		pci   devinfo.PCI
		vdpa  *devinfo.VDPA // in place of pci
	}{
		"netdev": {},
		"vfio, group and iommufd": {
			make: func(tree pcitest.Tree, dir string) {
				tree.Bind(vf0, "mlx5_vfio_pci")
				tree.Write("sys/class/vfio/2020/dev", "240:0")
				tree.Write("sys/class/misc/iommu/dev", "10:1")
				tree.Write(dir+"/vfio-dev/vfio0/dev", "511:0")
			},
			nodes: []string{
				"/dev/vfio/vfio /dev/vfio/vfio rw", "/dev/vfio/2020 /dev/vfio/2020 rw", "/dev/iommu /dev/iommu rw",
				"/dev/vfio/devices/vfio0 /dev/vfio/devices/vfio0 rw",
			},
			info: topics{"vfio": {
				"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/2020", "iommufd-mount": "/dev/iommu", "cdev-mount": "/dev/vfio/devices/vfio0",
			}},
		},
		"vfio without IOMMU": {
			make: func(tree pcitest.Tree, _ string) {
				tree.Bind(vf0, "vfio-pci")
				tree.Write("sys/kernel/iommu_groups/2020/name", "vfio-noiommu")
				tree.Write("sys/class/vfio/noiommu-2020/dev", "240:0")
			},
			nodes: []string{"/dev/vfio/vfio /dev/vfio/vfio rw", "/dev/vfio/noiommu-2020 /dev/vfio/2020 rw"},
			info:  topics{"vfio": {"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/2020"}},
		},
		"uio": {
			make: func(tree pcitest.Tree, dir string) {
				tree.Bind(vf0, "igb_uio")
				tree.Write(dir+"/uio/uio3/dev", "1:1")
			},
			nodes: []string{"/dev/uio3 /dev/uio3 rw"},
			info:  topics{"uio": {"mount": "/dev/uio3"}},
		},
		"RDMA": {
			needs: plugin.Needs{RDMA: true},
			make: func(tree pcitest.Tree, dir string) {
				tree.Write(dir+"/infiniband/mlx5_7/node_type", "1: CA")
				tree.Write(dir+"/infiniband_verbs/uverbs7/ibdev", "mlx5_7")
				tree.Write(dir+"/infiniband_mad/umad7/ibdev", "mlx5_7")
				tree.Write(dir+"/infiniband_mad/issm7/ibdev", "mlx5_7")
				tree.Write("sys/class/misc/rdma_cm/dev", "10:1")
			},
			nodes: []string{
				"/dev/infiniband/uverbs7 /dev/infiniband/uverbs7 rw", "/dev/infiniband/umad7 /dev/infiniband/umad7 rw",
				"/dev/infiniband/issm7 /dev/infiniband/issm7 rw", "/dev/infiniband/rdma_cm /dev/infiniband/rdma_cm rw",
			},
			info: topics{"rdma": {
				"rdma_dev": "mlx5_7", "uverbs": "/dev/infiniband/uverbs7", "umad": "/dev/infiniband/umad7",
				"issm": "/dev/infiniband/issm7", "rdma_cm": "/dev/infiniband/rdma_cm",
			}},
			pci: devinfo.PCI{RDMADevice: "mlx5_7"},
		},
		"RDMA that nobody asked for": {
			make: func(tree pcitest.Tree, dir string) {
				tree.Write(dir+"/infiniband/mlx5_7/node_type", "1: CA")
				tree.Write(dir+"/infiniband_verbs/uverbs7/ibdev", "mlx5_7")
			},
		},
		"vhost, with its modules loaded or not": {
			needs: plugin.Needs{VhostNet: true},
			nodes: []string{"/dev/vhost-net /dev/vhost-net rw", "/dev/net/tun /dev/net/tun rw"},
			info:  topics{"vhost": {"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"}},
			pci:   devinfo.PCI{VhostNet: "/dev/vhost-net"},
		},
		"switchdev": {
			make: func(tree pcitest.Tree, _ string) {
				tree.AddNet("0000:02:00.0", pcitest.Net{Name: "ens2_1", PhysPortName: "pf0vf1", Index: 20})
				tree.AddNet("0000:02:00.0", pcitest.Net{Name: "ens2_0", PhysPortName: "pf0vf0", Index: 21})
			},
			pci: devinfo.PCI{RepresentorDevice: "ens2_0"},
		},
		"vDPA, vhost": {
			needs: plugin.Needs{VDPA: "vhost"},
			make: func(tree pcitest.Tree, dir string) {
				tree.Write(tree.AddVDPA(dir, "vdpa0", "vhost_vdpa")+"/vhost-vdpa-3/dev", "511:0")
			},
			nodes: []string{"/dev/vhost-vdpa-3 /dev/vhost-vdpa-3 rw"},
			info:  topics{"vdpa": {"mount": "/dev/vhost-vdpa-3"}},
			vdpa: &devinfo.VDPA{
				ParentDevice: "vdpa0", Driver: "vhost", Path: "/dev/vhost-vdpa-3", PCIAddress: vf0, PFAddress: "0000:02:00.0",
			},
		},
		"vDPA, virtio": {
			needs: plugin.Needs{VDPA: "virtio"},
			make:  func(tree pcitest.Tree, dir string) { tree.AddVDPA(dir, "vdpa0", "virtio_vdpa") },
			vdpa:  &devinfo.VDPA{ParentDevice: "vdpa0", Driver: "virtio", PCIAddress: vf0, PFAddress: "0000:02:00.0"},
		},
		"vDPA that nobody asked for": {
			make: func(tree pcitest.Tree, dir string) {
				tree.Write(tree.AddVDPA(dir, "vdpa0", "vhost_vdpa")+"/vhost-vdpa-3/dev", "511:0")
			},
		},
		"subfunction with RDMA": {
			id: sf, needs: plugin.Needs{RDMA: true},
			make: func(tree pcitest.Tree, _ string) {
				dir := tree.AddSubfunction("0000:02:00.0", sf, 88, pcitest.Net{Name: "sf88", Index: 30})
				tree.Write(dir+"/infiniband/mlx5_9/node_type", "1: CA")
				tree.Write(dir+"/infiniband_verbs/uverbs9/ibdev", "mlx5_9")
			},
			nodes: []string{"/dev/infiniband/uverbs9 /dev/infiniband/uverbs9 rw"},
			info:  topics{"rdma": {"rdma_dev": "mlx5_9", "uverbs": "/dev/infiniband/uverbs9"}},
		},
		"subfunction with vDPA": {
			id: sf, needs: plugin.Needs{VDPA: "vhost"},
			make: func(tree pcitest.Tree, _ string) {
				dir := tree.AddSubfunction("0000:02:00.0", sf, 88, pcitest.Net{})
				tree.Write(tree.AddVDPA(dir, "vdpa1", "vhost_vdpa")+"/vhost-vdpa-4/dev", "511:0")
				tree.AddNet("0000:02:00.0", pcitest.Net{Name: "en3f0pf0sf88", PhysPortName: "pf0sf88", Index: 22})
			},
			nodes: []string{"/dev/vhost-vdpa-4 /dev/vhost-vdpa-4 rw"},
			info:  topics{"vdpa": {"mount": "/dev/vhost-vdpa-4"}},
			vdpa: &devinfo.VDPA{
				ParentDevice: "vdpa1", Driver: "vhost", Path: "/dev/vhost-vdpa-4", PFAddress: "0000:02:00.0", RepresentorDevice: "en3f0pf0sf88",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.kubelet.Start()
			defer f.kubelet.Stop()
			f.tree.AddIGB("02", "ens2", 4, 2)
			if test.make != nil {
				test.make(f.tree, f.tree.Dir(vf0))
			}
			id := cmp.Or(test.id, vf0)
			f.offer(t, plugin.Device{ID: id, NUMANode: -1, Needs: test.needs})
			got, err := f.allocate(t, id)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.nodes, nodes(got)); diff != "" {
				t.Errorf("device nodes (-want +got):\n%s", diff)
			}
			want := topics{"generic": {"deviceID": id}}
			maps.Copy(want, test.info)
			var info map[string]topics
			if err := json.Unmarshal([]byte(got.GetEnvs()["PCIDEVICE_INTEL_COM_SRIOV_INFO"]), &info); err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(map[string]topics{id: want}, info); diff != "" {
				t.Errorf("info (-want +got):\n%s", diff)
			}
			test.pci.Address, test.pci.PFAddress = vf0, "0000:02:00.0"
			switch {
			case test.vdpa != nil:
				f.hasDevInfo(t, id, &devinfo.Info{Type: "vdpa", Version: "1.1.0", VDPA: test.vdpa})
			case id == sf:
				f.hasDevInfo(t, id, nil)
			default:
				f.hasDevInfo(t, id, &devinfo.Info{Type: "pci", Version: "1.1.0", PCI: &test.pci})
			}
		})
	}
}

// hasDevInfo compares the device's device-info file; nil: there is none.
func (f *fixture) hasDevInfo(t *testing.T, id string, want *devinfo.Info) {
	t.Helper()
	path, err := f.devInfo.DevicePath(resource, id)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.devInfo.Read(path)
	if want == nil {
		if !errors.Is(err, devinfo.ErrNotExist) {
			t.Errorf("device-info: %+v, %v, want none", info, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(*want, info); diff != "" {
		t.Errorf("device-info (-want +got):\n%s", diff)
	}
}

// Two devices of one container share what they can, and are told apart in the environment.
func TestAllocateTwo(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.bindVFIO()
	f.set.Update(t.Context(), []plugin.Resource{{
		Name: "intel.com/sriov-dpdk", Devices: []plugin.Device{device(vf0), device(vf1)},
		AdditionalInfo: topics{"*": {"token": "all", "x": "y"}, vf0: {"token": "one"}},
	}})
	got, err := f.allocate(t, vf1, vf0)
	if err != nil {
		t.Fatal(err)
	}
	envs := got.GetEnvs()
	if len(envs) != 4 {
		t.Errorf("environment: %v", envs)
	}
	for _, name := range []string{"PCIDEVICE_INTEL_COM_SRIOV-DPDK", "PCIDEVICE_INTEL_COM_SRIOV_DPDK"} {
		if diff := gocmp.Diff(vf1+","+vf0, envs[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var info map[string]topics
		if err := json.Unmarshal([]byte(envs[name+"_INFO"]), &info); err != nil {
			t.Fatal(err)
		}
		want := map[string]topics{
			vf0: {
				"generic": {"deviceID": vf0}, "extra": {"token": "one", "x": "y"},
				"vfio": {"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/2020"},
			},
			vf1: {
				"generic": {"deviceID": vf1}, "extra": {"token": "all", "x": "y"},
				"vfio": {"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/2021"},
			},
		}
		if diff := gocmp.Diff(want, info); diff != "" {
			t.Errorf("%s_INFO (-want +got):\n%s", name, diff)
		}
	}
	want := []string{"/dev/vfio/vfio /dev/vfio/vfio rw", "/dev/vfio/2021 /dev/vfio/2021 rw", "/dev/vfio/2020 /dev/vfio/2020 rw"}
	if diff := gocmp.Diff(want, nodes(got)); diff != "" {
		t.Errorf("device nodes (-want +got):\n%s", diff)
	}
}

func (f *fixture) bindVFIO() {
	f.tree.AddIGB("02", "ens2", 4, 2)
	f.tree.Bind(vf0, "vfio-pci")
	f.tree.Bind(vf1, "vfio-pci")
	f.tree.Write("sys/class/vfio/2020/dev", "240:0")
	f.tree.Write("sys/class/vfio/2021/dev", "240:1")
}

// By CDI, a container may have devices of two pools, and of one that needs no node.
func TestAllocateByCDI(t *testing.T) {
	f := newFixture(t)
	dir := &cdi.Dir{Root: filepath.Join(t.TempDir(), "cdi")}
	claimed := map[string][]string{}
	f.set = plugin.NewSet(plugin.Config{
		RegistryDir: f.kubelet.Registry(), DevicePluginDir: f.kubelet.Plugins(), Root: f.tree.Root, DevInfo: f.devInfo, CDI: dir,
		Log: slog.New(slog.DiscardHandler), Timing: plugin.Timing{Look: 5 * time.Millisecond},
		Allocating: func(resource string, ids []string) error {
			if left, _ := filepath.Glob(dir.Root + "/*" + ids[0] + "*"); left != nil {
				t.Errorf("written before it is claimed: %v", left)
			}
			claimed[resource] = ids
			return nil
		},
	})
	t.Cleanup(f.set.Close)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.bindVFIO()
	f.tree.AddIGB("03", "ens3", 10, 1)
	const netdev = "0000:03:10.0"
	f.set.Update(t.Context(), []plugin.Resource{
		{Name: "intel.com/a", Devices: []plugin.Device{device(vf0)}},
		{Name: "intel.com/b", Devices: []plugin.Device{device(vf1)}},
		{Name: "intel.com/c", Devices: []plugin.Device{device(netdev)}},
	})
	for n, want := range []struct {
		id    string
		names []string
	}{
		{vf0, []string{"viaduct-sriov.github.io/device=intel.com_a-0000:02:10.0"}},
		{vf1, []string{"viaduct-sriov.github.io/device=intel.com_b-0000:02:10.2"}},
		{netdev, nil},
	} {
		got, err := f.allocateOf(t, n, want.id)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range got.GetCdiDevices() {
			names = append(names, d.GetName())
		}
		if diff := gocmp.Diff(want.names, names); diff != "" {
			t.Errorf("CDI devices (-want +got):\n%s", diff)
		}
		if len(got.GetDevices()) > 0 || len(got.GetEnvs()) != 2 {
			t.Errorf("answer: %v", got)
		}
	}
	if diff := gocmp.Diff(map[string][]string{"intel.com/a": {vf0}, "intel.com/b": {vf1}, "intel.com/c": {netdev}}, claimed); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}
	files, err := filepath.Glob(dir.Root + "/*")
	if err != nil || len(files) != 2 {
		t.Errorf("specifications: %v, %v, want two", files, err)
	}
}

func TestAllocateRefuses(t *testing.T) {
	f := newFixture(t)
	f.kubelet.Start()
	defer f.kubelet.Stop()
	f.tree.AddIGB("02", "ens2", 4, 2)
	f.tree.Bind("0000:02:10.2", "vfio-pci") // and no node for it
	sick := device("0000:02:10.0")
	sick.Unhealthy = "no driver is bound to it"
	f.tree.AddIGB("03", "ens3", 10, 5)
	f.tree.Bind("0000:03:10.0", "uio_pci_generic") // and no node for it
	f.tree.AddVDPA(f.tree.Dir("0000:03:10.6"), "vdpa0", "")
	needs := func(id string, n plugin.Needs) plugin.Device { return plugin.Device{ID: id, Needs: n} }
	f.offer(t, sick, device("0000:02:10.2"), device("0000:02:10.4"), device("0000:03:10.0"), device("nonsense"), device(sf),
		needs("0000:03:10.2", plugin.Needs{RDMA: true}), needs("0000:03:10.6", plugin.Needs{VDPA: "vhost"}),
		needs("0000:03:11.0", plugin.Needs{VDPA: "virtio"}))
	tests := map[string]struct {
		id   string
		code codes.Code
		text string
	}{
		"unknown":          {"0000:99:10.0", codes.NotFound, "0000:99:10.0"},
		"unhealthy":        {"0000:02:10.0", codes.FailedPrecondition, "no driver is bound to it"},
		"without its node": {"0000:02:10.2", codes.Internal, "no vfio node"},
		"without uio node": {"0000:03:10.0", codes.Internal, "no uio node"},
		"without RDMA":     {"0000:03:10.2", codes.Internal, "no RDMA device"},
		"without vDPA":     {"0000:03:11.0", codes.Internal, "vdpa dev add"},
		"unbound vDPA":     {"0000:03:10.6", codes.Internal, "load the module vhost_vdpa"},
		"no subfunction":   {sf, codes.Internal, sf},
		"empty":            {"", codes.NotFound, `no device ""`},
		"no address":       {"nonsense", codes.Internal, "nonsense"},
		"gone":             {"0000:02:10.4", codes.Internal, "no such PCI device"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := f.allocate(t, test.id)
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %s with %q", err, test.code, test.text)
			}
		})
	}
}
