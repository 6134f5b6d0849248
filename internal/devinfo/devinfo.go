// Package devinfo reads and writes device-info files (Network Plumbing Working Group, device information specification
// 1.1.0): what the device plugin knows of a device, for those who find it in a pod.
//
// Below Dir.Root:
//
//	dp/<resource, / as ->-<device id>-device.json   one per allocated device; the device plugin writes it
//	cni/<name>-device.json                          one per attachment; a copy that the meta CNI makes and removes
//	dp/.viaduct                                     {"version": 1, "resources": ["intel.com/sriov"]}: whose files are ours
//
// The folder is shared with the meta CNIs and CNI plugins of others, so modes follow the specification's users: folders
// 0755, files 0644. A file is always whole: written as a temporary file, then renamed.
package devinfo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRoot is where everyone looks.
const DefaultRoot = "/var/run/k8s.cni.cncf.io/devinfo"

// Version is the version of the specification that this package writes.
const Version = "1.1.0"

// What a call can answer besides success; test with errors.Is.
var (
	// ErrNotExist means that there is no such file.
	ErrNotExist = errors.New("no device-info file")
	// ErrName means that a resource, id or name cannot be part of a file name.
	ErrName = errors.New("invalid name for a device-info file")
	// ErrCorrupt means that the file is there but holds no device information.
	ErrCorrupt = errors.New("corrupt device-info file")
)

// Info is the content of a file: what kind of device, and the part for that kind.
type Info struct {
	Type    string `json:"type"` // pci, vdpa
	Version string `json:"version"`
	PCI     *PCI   `json:"pci,omitempty"`
	VDPA    *VDPA  `json:"vdpa,omitempty"`
}

// PCI describes a PCI device.
type PCI struct {
	Address    string `json:"pci-address"`
	PFAddress  string `json:"pf-pci-address,omitempty"`
	VhostNet   string `json:"vhost-net,omitempty"`
	RDMADevice string `json:"rdma-device,omitempty"`
	// RepresentorDevice is the interface on the node that stands for the device in a switch.
	RepresentorDevice string `json:"representor-device,omitempty"`
}

// VDPA describes a vDPA device.
type VDPA struct {
	ParentDevice string `json:"parent-device,omitempty"`
	Driver       string `json:"driver,omitempty"` // vhost, virtio
	Path         string `json:"path,omitempty"`
	PCIAddress   string `json:"pci-address,omitempty"`
	PFAddress    string `json:"pf-pci-address,omitempty"`
	// RepresentorDevice is as in PCI.
	RepresentorDevice string `json:"representor-device,omitempty"`
}

// A Dir is the folder of device-info files. The zero Dir is DefaultRoot.
type Dir struct{ Root string }

func (d Dir) root() string {
	if d.Root == "" {
		return DefaultRoot
	}
	return d.Root
}

// isName takes one path element: no slash, no leading dot, nothing that a shell or a terminal would choke on. It is no
// regular expression: compiling this one took two thirds of the start of each CNI plugin that links this package.
func isName(name string) bool {
	if name == "" || len(name) > 220 {
		return false
	}
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.:-", rune(c))) {
			return false
		}
	}
	return true
}

const fileSuffix = "-device.json"

func file(folder, name string) (string, error) {
	if !isName(name) {
		return "", fmt.Errorf("%w: %q: want letters, digits and _.:- only, 220 at most, starting with a letter or digit", ErrName, name)
	}
	return filepath.Join(folder, name+fileSuffix), nil
}

// DevicePath is the file of one device of a resource such as intel.com/sriov. The error wraps ErrName.
func (d Dir) DevicePath(resource, id string) (string, error) {
	if id == "" || resource == "" || strings.Contains(id, "/") {
		return "", fmt.Errorf("%w: resource %q, device %q", ErrName, resource, id)
	}
	return file(filepath.Join(d.root(), "dp"), strings.ReplaceAll(resource, "/", "-")+"-"+id)
}

// Devices lists the ids of a resource's devices that have a file. A name can be read in two ways: as the device c-0000:02:10.0
// of the resource a/b, and as 0000:02:10.0 of a/b-c. No device's id has a -.
func (d Dir) Devices(resource string) (ids []string, err error) {
	entries, err := os.ReadDir(filepath.Join(d.root(), "dp"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list device-info: %w", err)
	}
	for _, e := range entries {
		id, ok1 := strings.CutPrefix(e.Name(), strings.ReplaceAll(resource, "/", "-")+"-")
		id, ok2 := strings.CutSuffix(id, fileSuffix)
		if ok1 && ok2 && !strings.Contains(id, "-") {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// owner is the content of the file that says whose files are ours. Other versions are not for us to read.
type owner struct {
	Version   int      `json:"version"`
	Resources []string `json:"resources"`
}

func (d Dir) ownerPath() string { return filepath.Join(d.root(), "dp", ".viaduct") }

// Resources are those whose files are ours, as SetResources was last told; none if it never was. Errors wrap ErrCorrupt or are
// the file system's own.
func (d Dir) Resources() ([]string, error) {
	data, err := read(d.ownerPath())
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var o owner
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrCorrupt, d.ownerPath(), err)
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("%w %s: it has version %d, and this program knows 1", ErrCorrupt, d.ownerPath(), o.Version)
	}
	return o.Resources, nil
}

// SetResources notes whose files are ours.
func (d Dir) SetResources(resources []string) error {
	data, err := json.Marshal(owner{1, resources})
	if err != nil {
		return fmt.Errorf("encode whose device-info is ours: %w", err)
	}
	return write(d.ownerPath(), data)
}

// WriteDevice writes the file of one device, whole or not at all. An empty Version becomes this package's.
func (d Dir) WriteDevice(resource, id string, info Info) error {
	path, err := d.DevicePath(resource, id)
	if err != nil {
		return err
	}
	if info.Version == "" {
		info.Version = Version
	}
	data, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode device-info of %s: %w", id, err)
	}
	return write(path, data)
}

// PodPath is the file of one attachment of a pod, as CopyForPod makes it. The error wraps ErrName.
func (d Dir) PodPath(name string) (string, error) { return file(filepath.Join(d.root(), "cni"), name) }

// CopyForPod copies the device's file, byte for byte, to cni/<name>-device.json for one attachment of a pod, and gives
// its path. The error wraps ErrNotExist if the device has none: the device plugin does not write any, or is not ours.
func (d Dir) CopyForPod(resource, id, name string) (path string, err error) {
	source, err := d.DevicePath(resource, id)
	if err != nil {
		return "", err
	}
	if path, err = d.PodPath(name); err != nil {
		return "", err
	}
	data, err := read(source)
	if err != nil {
		return "", err
	}
	if err := write(path, data); err != nil {
		return "", err
	}
	return path, nil
}

// Read reads the file at path. Errors wrap ErrNotExist, ErrCorrupt, or are the file system's own.
func (d Dir) Read(path string) (Info, error) {
	data, err := read(path)
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, fmt.Errorf("%w %s: %w", ErrCorrupt, path, err)
	}
	if info.Type == "" {
		return Info{}, fmt.Errorf("%w %s: it has no type", ErrCorrupt, path)
	}
	return info, nil
}

// Remove removes the file at path, which must be one below the folder. One that is gone already is no error.
func (d Dir) Remove(path string) error {
	rel, err := filepath.Rel(d.root(), path)
	if err != nil || !filepath.IsLocal(rel) || !strings.HasSuffix(rel, fileSuffix) {
		return fmt.Errorf("%w: %s is no file below %s", ErrName, path, d.root())
	}
	return remove(path)
}

// RemoveOfPod removes the attachment's file that goes by this whole name, which Multus gives no ending. One that is not there
// is no error.
func (d Dir) RemoveOfPod(file string) error {
	if file != filepath.Base(file) || !filepath.IsLocal(file) || file == "." {
		return fmt.Errorf("%w: %q", ErrName, file)
	}
	return remove(filepath.Join(d.root(), "cni", file))
}

func remove(path string) error {
	for _, file := range []string{path, temp(path)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove device-info: %w", err)
		}
	}
	return nil
}

// maxFile bounds what a read takes into memory: the files are a few hundred bytes, but others can write to the folder.
const maxFile = 1 << 20

func read(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotExist, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read device-info: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	if data, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err != nil {
		return nil, fmt.Errorf("read device-info: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w %s: more than %d bytes", ErrCorrupt, path, maxFile)
	}
	return data, nil
}

// write needs no fsync: the folder is on a tmpfs and dies with the boot, as the devices' allocations do not, but every
// Allocate writes anew.
func write(path string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder for device-info: %w", err)
	}
	f, err := os.OpenFile(temp(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("write device-info: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(temp(path), path)
	}
	if err != nil {
		return fmt.Errorf("write device-info: %w", errors.Join(err, os.Remove(temp(path))))
	}
	return nil
}

// temp is the same for each write of a file, so that a killed writer leaves one at most, which goes with the file. Each has one
// writer at a time: who holds the container's lock, or the device plugin. The name starts with a dot, so readers pass it by.
func temp(path string) string {
	dir, base := filepath.Split(path)
	return filepath.Join(dir, "."+base+".tmp")
}
