package pci_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

func address(t *testing.T, s string) pci.Address {
	t.Helper()
	a, err := pci.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseAddress(t *testing.T) {
	tests := map[string]struct {
		in   string
		want string // empty: refused
	}{
		"usual":             {"0000:3b:02.1", "0000:3b:02.1"},
		"upper case":        {"0000:3B:0A.7", "0000:3b:0a.7"},
		"VMD domain":        {"10000:e1:00.0", "10000:e1:00.0"},
		"widest domain":     {"ffffffff:ff:1f.7", "ffffffff:ff:1f.7"},
		"no domain":         {"3b:02.1", ""},
		"padded domain":     {"00000:3b:02.1", ""},
		"domain too long":   {"1ffffffff:3b:02.1", ""},
		"function too high": {"0000:3b:02.8", ""},
		"device too high":   {"0000:3b:20.0", ""},
		"sign":              {"0000:+b:02.1", ""},
		"underscore":        {"0_00:3b:02.1", ""},
		"space":             {"0000:3b:02.1 ", ""},
		"path":              {"../0:3b:02.1", ""},
		"empty":             {"", ""},
		"auxiliary device":  {"mlx5_core.sf.2", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := pci.ParseAddress(test.in)
			if test.want == "" {
				if !errors.Is(err, pci.ErrAddress) {
					t.Fatalf("got %v, %v; want ErrAddress", a, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, a.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"0000:3b:02.1", "10000:e1:00.0", "", "0000:3b:1f.7", "ffffffff:ff:1f.7", "0000:00:00.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := pci.ParseAddress(s)
		if err != nil {
			return
		}
		again, err := pci.ParseAddress(a.String())
		if err != nil || again != a || len(a.String()) != len(s) {
			t.Errorf("%q became %q became %v, %v", s, a, again, err)
		}
	})
}

func TestReadVF(t *testing.T) {
	tree := pcitest.New(t)
	vfs := tree.AddIGB("02", "ens2", 4, 3)
	got, err := pci.Read(tree.Root, address(t, vfs[2]))
	if err != nil {
		t.Fatal(err)
	}
	want := &pci.Device{
		Address: address(t, "0000:02:10.4"), Vendor: "8086", Product: "10ca", Class: 0x020000, Driver: "igbvf", IOMMUGroup: "2022",
		Netdevs: []pci.Netdev{{Name: "ens2v2", Index: 7, Type: 1}},
		PF:      address(t, "0000:02:00.0"), VFIndex: 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("VF (-want +got):\n%s", diff)
	}
}

func TestReadPF(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	got, err := pci.Read(tree.Root, address(t, "0000:02:00.0"))
	if err != nil {
		t.Fatal(err)
	}
	want := &pci.Device{
		Address: address(t, "0000:02:00.0"), Vendor: "8086", Product: "10c9", Class: 0x020000, Driver: "igb", IOMMUGroup: "102",
		Netdevs: []pci.Netdev{{Name: "ens2", Index: 4, Type: 1, Up: true}},
		VFIndex: -1, TotalVFs: 7, VFs: []pci.Address{address(t, "0000:02:10.0"), address(t, "0000:02:10.2")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PF (-want +got):\n%s", diff)
	}
}

// The index is the link's number even where the addresses suggest another, and where the capability's offset and stride
// are not there to say.
// While VFs are made sriov_numvfs still says 0, and the links are there one by one.
func TestVFsAreTheLinks(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	tree.Write(tree.Dir("0000:02:00.0")+"/sriov_numvfs", "0")
	snapshot, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	pf := snapshot.Devices()[0]
	if len(pf.VFs) != 2 || snapshot.Device(pf.VFs[1]) == nil || snapshot.Device(pf.VFs[1]).VFIndex != 1 {
		t.Errorf("VFs %v of %s", pf.VFs, pf.Address)
	}
}

func TestVFIndexIsTheLinks(t *testing.T) {
	for name, hints := range map[string]bool{"offset and stride": true, "links alone": false} {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			const pf = "0000:3b:00.1"
			tree.Add(pcitest.Func{Address: pf, Vendor: "15b3", Device: "1017", Class: "020000", TotalVFs: 8})
			for _, a := range []string{"0000:3b:01.2", "0000:3b:01.0", "0000:3c:00.0"} {
				tree.AddVF(pf, pcitest.Func{Address: a, Vendor: "15b3", Device: "1018", Class: "020000"})
			}
			if hints {
				tree.Write(tree.Dir(pf)+"/sriov_offset", "7")
				tree.Write(tree.Dir(pf)+"/sriov_stride", "1")
			}
			snapshot, err := pci.Scan(tree.Root)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for _, d := range snapshot.Devices() {
				read, err := pci.Read(tree.Root, d.Address)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(d, read); diff != "" {
					t.Errorf("scan and read differ (-scan +read):\n%s", diff)
				}
				got[d.Address.String()] = d.VFIndex
			}
			want := map[string]int{pf: -1, "0000:3b:01.2": 0, "0000:3b:01.0": 1, "0000:3c:00.0": 2}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("indexes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadVirtio(t *testing.T) {
	tree := pcitest.New(t)
	tree.Add(pcitest.Func{Address: "0000:00:03.0", Vendor: "1af4", Device: "1041", Class: "020000", Driver: "virtio-pci"})
	tree.Write(tree.Dir("0000:00:03.0")+"/virtio2/net/eth0/ifindex", "2")
	tree.Write(tree.Dir("0000:00:03.0")+"/virtio2/net/eth0/type", "1")
	got, err := pci.Read(tree.Root, address(t, "0000:00:03.0"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pci.Netdev{{Name: "eth0", Index: 2, Type: 1}}, got.Netdevs); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
}

func TestReadInfiniBand(t *testing.T) {
	tree := pcitest.New(t)
	const hca = "0000:3b:00.0"
	tree.Add(pcitest.Func{
		Address: hca, Vendor: "15b3", Device: "1017", Class: "020700", Driver: "mlx5_core", Net: []pcitest.Net{{Name: "ib0", Index: 3, Type: 32}},
	})
	tree.Write(tree.Dir(hca)+"/infiniband/mlx5_0/ports/1/pkeys/0", "0x8001")
	got, err := pci.Read(tree.Root, address(t, hca))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"mlx5_0"}, got.RDMA); diff != "" || got.PKey != "0x8001" || got.Netdevs[0].Type != 32 {
		t.Errorf("got %+v %s", got, diff)
	}
}

func TestReadMissing(t *testing.T) {
	tree := pcitest.New(t)
	vfs := tree.AddIGB("02", "ens2", 4, 2)
	if _, err := pci.Read(tree.Root, address(t, "0000:02:10.6")); !errors.Is(err, pci.ErrNoDevice) {
		t.Errorf("never there: got %v, want ErrNoDevice", err)
	}
	tree.Remove(tree.Dir("0000:02:00.0") + "/virtfn1")
	if _, err := pci.Read(tree.Root, address(t, vfs[1])); !errors.Is(err, pci.ErrNoDevice) {
		t.Errorf("no longer its PF's: got %v, want ErrNoDevice", err)
	}
}

func TestUplink(t *testing.T) {
	tests := map[string]struct {
		netdevs []pci.Netdev
		want    string
	}{
		"legacy":              {[]pci.Netdev{{Name: "ens1"}}, "ens1"},
		"switchdev":           {[]pci.Netdev{{Name: "a_rep", PhysPortName: "pf0vf0"}, {Name: "ens1", PhysPortName: "p0"}, {Name: "sf", PhysPortName: "pf0sf88"}}, "ens1"},
		"only representors":   {[]pci.Netdev{{Name: "a_rep", PhysPortName: "pf0vf0"}}, ""},
		"in another netns":    {nil, ""},
		"port without number": {[]pci.Netdev{{Name: "x", PhysPortName: "p"}}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := pci.Device{Netdevs: test.netdevs}
			got, _ := d.Uplink()
			if diff := cmp.Diff(test.want, got.Name); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestScanKeepsNetworkAndAccelerators(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 1)
	tree.Add(pcitest.Func{Address: "0000:00:1f.0", Vendor: "8086", Device: "a0a0", Class: "060100"})
	tree.Add(pcitest.Func{Address: "0000:05:00.0", Vendor: "8086", Device: "0d5c", Class: "120000", Driver: "vfio-pci"})
	snapshot, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0000:02:00.0", "0000:02:10.0", "0000:05:00.0"}, names(snapshot)); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if d := snapshot.Device(address(t, "0000:02:10.0")); snapshot.PF(d).Product != "10c9" {
		t.Errorf("PF of the VF: %+v", snapshot.PF(d))
	}
	if snapshot.Device(address(t, "0000:00:1f.0")) != nil {
		t.Error("a bridge is in the snapshot")
	}
}

func TestRefresh(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 3)
	before, err := pci.Scan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}

	tree.Bind("0000:02:10.0", "vfio-pci")
	tree.RemoveNet("0000:02:10.0", "ens2v0")
	tree.Bind("0000:02:10.2", "") // not told: must not be seen
	tree.Remove("sys/bus/pci/devices/0000:02:10.4")
	tree.Remove(tree.Dir("0000:02:10.4"))
	tree.Add(pcitest.Func{Address: "0000:01:00.0", Vendor: "1af4", Device: "1041", Class: "020000", Driver: "virtio-pci"})
	after, err := before.Refresh(tree.Root, address(t, "0000:02:10.0"), address(t, "0000:02:10.4"), address(t, "0000:01:00.0"))
	if err != nil {
		t.Fatal(err)
	}

	if diff := cmp.Diff([]string{"0000:01:00.0", "0000:02:00.0", "0000:02:10.0", "0000:02:10.2"}, names(after)); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	if got := after.Device(address(t, "0000:02:10.0")); got.Driver != "vfio-pci" || got.Netdevs != nil || got.VFIndex != 0 {
		t.Errorf("rebound VF: %+v", got)
	}
	unchanged := address(t, "0000:02:10.2")
	if before.Device(unchanged) != after.Device(unchanged) {
		t.Error("a device that was not named was read again")
	}
	// The old snapshot is what it was.
	if diff := cmp.Diff([]string{"0000:02:00.0", "0000:02:10.0", "0000:02:10.2", "0000:02:10.4"}, names(before)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	if got := before.Device(address(t, "0000:02:10.0")).Driver; got != "igbvf" {
		t.Errorf("driver in the old snapshot: %s", got)
	}
}

func TestScanWithoutPCI(t *testing.T) {
	snapshot, err := pci.Scan(t.TempDir())
	if err != nil || len(snapshot.Devices()) != 0 {
		t.Errorf("got %v, %v", snapshot, err)
	}
}

func names(s *pci.Snapshot) (names []string) {
	for _, d := range s.Devices() {
		names = append(names, d.Address.String())
	}
	return names
}
