package pcitest

import "fmt"

// AddIGB makes a PF of an Intel 82576 at 0000:<bus>:00.0 with interface name and vfs VFs, as igb lays them out: VFs at
// 0000:<bus>:10.0, 10.2, 10.4 and on, since the NIC's first VF offset is 128 and its stride 2. The interface indexes
// count from ifindex. It gives the VFs' addresses.
func (t Tree) AddIGB(bus, name string, ifindex, vfs int) []string {
	t.T.Helper()
	pf := "0000:" + bus + ":00.0"
	t.Add(Func{
		Address: pf, Vendor: "8086", Device: "10c9", Class: "020000", Driver: "igb", IOMMUGroup: "1" + bus,
		Net: []Net{{Name: name, Index: ifindex, Carrier: true}}, TotalVFs: 7,
	})
	t.Write(t.Dir(pf)+"/sriov_offset", "128")
	t.Write(t.Dir(pf)+"/sriov_stride", "2")
	var addresses []string
	for i := range vfs {
		id := 128 + 2*i
		a := fmt.Sprintf("0000:%s:%02x.%d", bus, id>>3, id&7)
		t.AddVF(pf, Func{
			Address: a, Vendor: "8086", Device: "10ca", Class: "020000", Driver: "igbvf", IOMMUGroup: fmt.Sprintf("2%s%d", bus, i),
			Net: []Net{{Name: fmt.Sprintf("%sv%d", name, i), Index: ifindex + 1 + i}},
		})
		addresses = append(addresses, a)
	}
	return addresses
}

// AddLarge makes pfs PFs with vfs VFs each, named p<n> and p<n>v<m>: the tree that scans are measured on.
func (t Tree) AddLarge(pfs, vfs int) { t.addLarge(pfs, vfs, "iavf") }

// AddLargeVFIO is AddLarge with the VFs in user space, so without interfaces.
func (t Tree) AddLargeVFIO(pfs, vfs int) { t.addLarge(pfs, vfs, "vfio-pci") }

func (t Tree) addLarge(pfs, vfs int, driver string) {
	t.T.Helper()
	index := 10
	for p := range pfs {
		bus := 0x10 + 4*p
		pf := fmt.Sprintf("0000:%02x:00.0", bus)
		t.Add(Func{
			Address: pf, Vendor: "8086", Device: "1592", Class: "020000", Driver: "ice", NUMA: p % 2, IOMMUGroup: fmt.Sprint(p),
			Net: []Net{{Name: fmt.Sprintf("p%d", p), Index: index, Carrier: true}}, TotalVFs: vfs,
		})
		t.Write(t.Dir(pf)+"/sriov_offset", "8")
		t.Write(t.Dir(pf)+"/sriov_stride", "1")
		index++
		for v := range vfs {
			id := bus<<8 + 8 + v
			f := Func{
				Address: fmt.Sprintf("0000:%02x:%02x.%d", id>>8, id>>3&0x1f, id&7), Vendor: "8086", Device: "1889", Class: "020000",
				Driver: driver, NUMA: p % 2, IOMMUGroup: fmt.Sprint(1000 + p*vfs + v),
			}
			if driver == "vfio-pci" {
				t.Write("sys/class/vfio/"+f.IOMMUGroup+"/dev", "240:0")
			} else {
				f.Net = []Net{{Name: fmt.Sprintf("p%dv%d", p, v), Index: index}}
			}
			t.AddVFAt(pf, v, f)
			index++
		}
	}
}
