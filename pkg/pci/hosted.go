package pci

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What sits on a PCI function is of other buses, in a folder below the function's:
//
//	sys/devices/…/0000:03:00.0/mlx5_core.sf.2/          auxiliary bus, type sf: a subfunction
//	sys/devices/…/0000:03:00.2/vdpa0/                   vDPA bus; its name is the user's choice
//	sys/devices/…/0000:03:00.0/mlx5_core.sf.2/vdpa1/    the same on a subfunction

// A Subfunction is a part of a function that is used like a VF but has no PCI address: an auxiliary device of type sf.
type Subfunction struct {
	Name    string   `json:"name"`             // such as mlx5_core.sf.2
	Number  int      `json:"number"`           // the user's (sfnum), one of its kind on the function; -1: not known
	Driver  string   `json:"driver,omitempty"` // such as mlx5_core.sf; empty: none
	Netdevs []Netdev `json:"netdevs,omitempty"`
	RDMA    []string `json:"rdma,omitempty"`
	VDPA    *VDPA    `json:"vdpa,omitempty"`
}

// TypeSF is the type of the auxiliary devices that a scan finds. The others are parts of their own function's driver.
const TypeSF = "sf"

// A VDPA device gives a function's or subfunction's data path the form of a virtio device.
type VDPA struct {
	Name   string `json:"name"`             // such as vdpa0
	Driver string `json:"driver,omitempty"` // vhost_vdpa, virtio_vdpa; empty: none
	// Node is /dev/vhost-vdpa-0, by which a process has the device: with vhost_vdpa.
	Node string `json:"node,omitempty"`
	// Netdevs are the kernel's own, with virtio_vdpa.
	Netdevs []Netdev `json:"netdevs,omitempty"`
}

// ReadSubfunction reads one subfunction below root by its name, with the function that it is on. The error wraps
// ErrNoDevice if there is none.
func ReadSubfunction(root, name string) (*Device, *Subfunction, error) {
	r := newReader(root)
	defer r.close()
	a, err := r.functionOf(name)
	if err != nil {
		return nil, nil, err
	}
	d, err := Read(root, a)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(d.Subfunctions, func(sf Subfunction) bool { return sf.Name == name })
	if i < 0 {
		return nil, nil, fmt.Errorf("read subfunction %s: %w", name, ErrNoDevice)
	}
	return d, &d.Subfunctions[i], nil
}

const auxiliaryDevices, vdpaDevices = "sys/bus/auxiliary/devices", "sys/bus/vdpa/devices"

// functionOf finds the PCI function that an auxiliary device sits on.
func (r *reader) functionOf(name string) (Address, error) {
	if !isSubfunction(name) {
		return Address{}, fmt.Errorf("read subfunction %q: %w: want a name such as mlx5_core.sf.2", name, ErrNoDevice)
	}
	a, _, ok := splitPath(r.target(r.root, auxiliaryDevices+"/"+name))
	if !ok {
		return Address{}, fmt.Errorf("read subfunction %s: %w", name, ErrNoDevice)
	}
	return a, nil
}

// isSubfunction knows the names that the kernel gives: module, type, number.
func isSubfunction(name string) bool {
	module, rest, ok1 := strings.Cut(name, ".")
	kind, number, ok2 := strings.Cut(rest, ".")
	_, err := strconv.ParseUint(number, 10, 32)
	return ok1 && ok2 && err == nil && kind == TypeSF && module != "" && !strings.Contains(module, "/")
}

// hosted are the paths, below a function's folder, of its subfunctions and of the vDPA devices on it and them.
type hosted struct{ subfunctions, vdpas []string }

// allHosted lists both buses, which is little work, so that a scan need not look for them in each function's folder.
func (r *reader) allHosted() map[Address]*hosted {
	all := map[Address]*hosted{}
	note := func(bus string, wanted func(string) bool, add func(h *hosted, path string)) {
		for _, name := range r.list(r.root, bus) {
			if !wanted(name) {
				continue // there are several others for each function
			}
			if a, path, ok := splitPath(r.target(r.root, bus+"/"+name)); ok && path != "" {
				if all[a] == nil {
					all[a] = &hosted{}
				}
				add(all[a], path)
			}
		}
	}
	note(auxiliaryDevices, isSubfunction, func(h *hosted, path string) { h.subfunctions = append(h.subfunctions, path) })
	note(vdpaDevices, func(string) bool { return true }, func(h *hosted, path string) { h.vdpas = append(h.vdpas, path) })
	return all
}

// hostedBy looks into the folder of one function.
func (r *reader) hostedBy(dir folder) *hosted {
	h := &hosted{}
	for _, name := range r.folders(dir, ".") {
		switch r.link(dir, name+"/subsystem") {
		case "vdpa":
			h.vdpas = append(h.vdpas, name)
		case "auxiliary":
			if !isSubfunction(name) {
				continue
			}
			h.subfunctions = append(h.subfunctions, name)
			for _, child := range r.folders(dir, name) {
				if r.link(dir, name+"/"+child+"/subsystem") == "vdpa" {
					h.vdpas = append(h.vdpas, name+"/"+child)
				}
			}
		}
	}
	return h
}

// others reads what else sits on a function.
func (r *reader) others(d *Device, dir folder, h *hosted) {
	for _, path := range h.subfunctions {
		sf := Subfunction{Name: path, Number: -1, Driver: r.name(r.link(dir, path+"/driver"))}
		if n, ok := r.number(dir, path+"/sfnum"); ok {
			sf.Number = n
		}
		sf.Netdevs = r.netdevs(dir, path+"/net", false)
		sf.RDMA = r.list(dir, path+"/infiniband")
		d.Subfunctions = append(d.Subfunctions, sf)
	}
	slices.SortFunc(d.Subfunctions, func(a, b Subfunction) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(h.vdpas)
	for _, path := range h.vdpas {
		on := &d.VDPA
		if sf, _, deeper := strings.Cut(path, "/"); deeper {
			i := slices.IndexFunc(d.Subfunctions, func(x Subfunction) bool { return x.Name == sf })
			if i < 0 {
				continue
			}
			on = &d.Subfunctions[i].VDPA
		}
		if *on == nil { // no driver makes a second one
			*on = r.vdpa(dir, path)
		}
	}
}

func (r *reader) vdpa(dir folder, path string) *VDPA {
	v := &VDPA{Name: path[strings.LastIndexByte(path, '/')+1:], Driver: r.name(r.link(dir, path+"/driver"))}
	for _, child := range r.list(dir, path) {
		switch {
		case strings.HasPrefix(child, "vhost-vdpa-"):
			v.Node = "/dev/" + child
		case strings.HasPrefix(child, "virtio"):
			v.Netdevs = append(v.Netdevs, r.netdevs(dir, path+"/"+child+"/net", false)...)
		}
	}
	return v
}

// target is what a symbolic link points to; empty if there is none.
func (r *reader) target(d folder, name string) string {
	n, err := unix.Readlinkat(int(d), name, r.buf[:])
	if err != nil {
		return ""
	}
	return string(r.buf[:n])
}

// folders gives the sorted names of the folders in a folder. sysfs says with each name what it is, which saves a call for
// each of a PF's hundreds of links.
func (r *reader) folders(d folder, name string) (names []string) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(d), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, r.buf[:]) })
		if err != nil || n <= 0 {
			break
		}
		names = appendFolders(names, r.buf[:n])
	}
	slices.Sort(names)
	return names
}

// appendFolders reads struct linux_dirent64: 8 bytes inode, 8 offset, 2 length of the record, 1 type, the name with a NUL.
func appendFolders(names []string, b []byte) []string {
	const lengthAt, typeAt, nameAt = 16, 18, 19
	for len(b) > nameAt {
		length := int(binary.NativeEndian.Uint16(b[lengthAt:]))
		if length <= nameAt || length > len(b) {
			break
		}
		name := unix.ByteSliceToString(b[nameAt:length])
		if b[typeAt] == unix.DT_DIR && name != "." && name != ".." {
			names = append(names, name)
		}
		b = b[length:]
	}
	return names
}
