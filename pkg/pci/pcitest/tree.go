// Package pcitest makes sysfs trees for tests, with the links that the kernel makes:
//
//	sys/bus/pci/devices/<bdf>               -> ../../../devices/pci<domain>:<bus>/<bdf>
//	sys/devices/pci<domain>:<bus>/<bdf>/    vendor device class numa_node net/<name>/ …
//	    driver                              -> ../../../bus/pci/drivers/<driver>
//	    iommu_group                         -> ../../../kernel/iommu_groups/<n>
//	    virtfn<n>, physfn                   -> ../<bdf>
//
// It imitates files, not the kernel: what the kernel does when it is written to is for the lab.
package pcitest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A Tree is a file system root with a sysfs below it.
type Tree struct {
	T    testing.TB
	Root string
}

// New makes an empty tree.
func New(t testing.TB) Tree {
	t.Helper()
	tree := Tree{T: t, Root: t.TempDir()}
	tree.mkdir("sys/bus/pci/devices")
	return tree
}

// A Func is one function of the tree. Empty fields leave their file or link out.
type Func struct {
	Address, Vendor, Device, Class, Driver string
	NUMA                                   int
	IOMMUGroup                             string
	Net                                    []Net
	TotalVFs                               int // 0: no SR-IOV
}

// Net is one interface of a function.
type Net struct {
	Name, PhysPortName string
	Index, Type        int // 0: Ethernet
	Carrier            bool
}

// Dir is the function's folder, without the links.
func (t Tree) Dir(address string) string {
	return filepath.Join("sys/devices", "pci"+address[:len(address)-5], address)
}

// Add makes a function.
func (t Tree) Add(f Func) {
	t.T.Helper()
	dir := t.Dir(f.Address)
	t.Write(dir+"/vendor", "0x"+f.Vendor)
	t.Write(dir+"/device", "0x"+f.Device)
	t.Write(dir+"/class", "0x"+f.Class)
	t.Write(dir+"/numa_node", strconv.Itoa(f.NUMA))
	t.Write(dir+"/modalias", fmt.Sprintf("pci:v0000%sd0000%ssv00000000sd00000000bc%ssc%si%s",
		f.Vendor, f.Device, f.Class[:2], f.Class[2:4], f.Class[4:]))
	t.Link("../../../devices/pci"+f.Address[:len(f.Address)-5]+"/"+f.Address, "sys/bus/pci/devices/"+f.Address)
	t.Bind(f.Address, f.Driver)
	if f.IOMMUGroup != "" {
		t.mkdir("sys/kernel/iommu_groups/" + f.IOMMUGroup)
		t.Link("../../../kernel/iommu_groups/"+f.IOMMUGroup, dir+"/iommu_group")
	}
	for _, n := range f.Net {
		t.AddNet(f.Address, n)
	}
	if f.TotalVFs > 0 {
		t.Write(dir+"/sriov_totalvfs", strconv.Itoa(f.TotalVFs))
		t.Write(dir+"/sriov_numvfs", "0")
	}
}

// AddNet gives a function an interface.
func (t Tree) AddNet(address string, n Net) {
	t.T.Helper()
	t.netdev(t.Dir(address)+"/net/"+n.Name, n)
}

func (t Tree) netdev(dir string, n Net) {
	t.T.Helper()
	if n.Type == 0 {
		n.Type = 1
	}
	t.Write(dir+"/ifindex", strconv.Itoa(n.Index))
	t.Write(dir+"/type", strconv.Itoa(n.Type))
	t.Write(dir+"/carrier", map[bool]string{true: "1", false: "0"}[n.Carrier])
	if n.PhysPortName != "" {
		t.Write(dir+"/phys_port_name", n.PhysPortName)
	}
}

// RemoveNet takes an interface away, as a move into another network namespace does.
func (t Tree) RemoveNet(address, name string) {
	t.T.Helper()
	t.Remove(t.Dir(address) + "/net/" + name)
}

// AddVF makes f a VF of pf, by the next index.
func (t Tree) AddVF(pf string, f Func) {
	t.T.Helper()
	index := 0
	for t.exists(fmt.Sprintf("%s/virtfn%d", t.Dir(pf), index)) {
		index++
	}
	t.AddVFAt(pf, index, f)
}

// AddVFAt makes f the VF of pf with this index. Indexes are to be given in order.
func (t Tree) AddVFAt(pf string, index int, f Func) {
	t.T.Helper()
	t.Add(f)
	t.Link("../"+f.Address, fmt.Sprintf("%s/virtfn%d", t.Dir(pf), index))
	t.Link("../"+pf, t.Dir(f.Address)+"/physfn")
	t.Write(t.Dir(pf)+"/sriov_numvfs", strconv.Itoa(index+1))
}

// RemoveVFs takes all VFs of a PF away, as writing 0 to sriov_numvfs does.
func (t Tree) RemoveVFs(pf string) {
	t.T.Helper()
	for index := 0; ; index++ {
		link := fmt.Sprintf("%s/virtfn%d", t.Dir(pf), index)
		target, err := os.Readlink(filepath.Join(t.Root, link))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		t.check(err)
		t.Remove("sys/bus/pci/devices/" + filepath.Base(target))
		t.Remove(t.Dir(filepath.Base(target)))
		t.Remove(link)
	}
	t.Write(t.Dir(pf)+"/sriov_numvfs", "0")
}

// Bind makes driver the driver of a function; none if it is empty.
func (t Tree) Bind(address, driver string) {
	t.T.Helper()
	t.Remove(t.Dir(address) + "/driver")
	if driver != "" {
		t.mkdir("sys/bus/pci/drivers/" + driver)
		t.Link("../../../bus/pci/drivers/"+driver, t.Dir(address)+"/driver")
	}
}

// Write makes a file below the root, with a newline at its end, as attributes have.
func (t Tree) Write(name, content string) {
	t.T.Helper()
	t.mkdir(filepath.Dir(name))
	t.check(os.WriteFile(filepath.Join(t.Root, name), []byte(content+"\n"), 0o600))
}

// Link makes a symbolic link below the root, and what its target's relative path needs is the caller's to make.
func (t Tree) Link(target, name string) {
	t.T.Helper()
	t.mkdir(filepath.Dir(name))
	t.check(os.Symlink(target, filepath.Join(t.Root, name)))
}

// Remove takes a file or folder away, with everything in it.
func (t Tree) Remove(name string) {
	t.T.Helper()
	t.check(os.RemoveAll(filepath.Join(t.Root, name)))
}

// up leads from a folder to sys/, with a slash at its end.
func (t Tree) up(dir string) string { return strings.Repeat("../", strings.Count(dir, "/")) }

func (t Tree) mkdir(name string) {
	t.T.Helper()
	t.check(os.MkdirAll(filepath.Join(t.Root, name), 0o750))
}

func (t Tree) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(t.Root, name))
	return err == nil
}

func (t Tree) check(err error) {
	t.T.Helper()
	if err != nil {
		t.T.Fatal(err)
	}
}
