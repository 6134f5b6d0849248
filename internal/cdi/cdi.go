// Package cdi writes Container Device Interface specifications: files by which a container runtime finds the device nodes
// of a device that it knows by name only.
//
// Below Dir.Root, which runtimes read and other vendors write to:
//
//	viaduct_<device name>.json   one per allocated device that needs nodes
//
// where the device name is <resource, / as _>-<device id>, such as intel.com_sriov-0000:41:10.0, and the name by which a
// container asks for it Kind=<device name>. One file for each device, so that an allocation never changes what another
// one's containers get when they start again. A file is always whole: written as a temporary file, then renamed.
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	specs "tags.cncf.io/container-device-interface/specs-go"
)

// DefaultRoot is the folder for specifications that do not outlive the boot. Runtimes look there unless told otherwise.
const DefaultRoot = "/var/run/cdi"

// Kind is the vendor and class of all our devices.
const Kind = "viaduct-sriov.github.io/device"

// version is the oldest of the format that has hostPath. Runtimes refuse versions that they do not know.
const version = "0.5.0"

// ErrName means that a resource or id cannot be part of a CDI device's name; test with errors.Is.
var ErrName = errors.New("invalid name for a CDI device")

// A Dir is the folder of specifications. The zero Dir is DefaultRoot.
type Dir struct{ Root string }

func (d Dir) root() string {
	if d.Root == "" {
		return DefaultRoot
	}
	return d.Root
}

// A Node is one device node.
type Node struct {
	Host, Container string // its path there
	Permissions     string // of r, w and m
}

// What the CDI allows in a device's name, and 200 characters at most for the file's.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.:-]{0,198}[A-Za-z0-9])?$`)

func deviceName(resource, id string) (string, error) {
	name := strings.ReplaceAll(resource, "/", "_") + "-" + id
	if resource == "" || id == "" || !namePattern.MatchString(name) {
		return "", fmt.Errorf("%w: resource %q, device %q: want letters, digits and _.:- only, 200 in all at most", ErrName, resource, id)
	}
	return name, nil
}

const (
	filePrefix = "viaduct_"
	fileSuffix = ".json"
)

func fileName(device string) string { return filePrefix + device + fileSuffix }

// Write writes the specification of one device, whole or not at all, and gives the name by which a container asks for it.
// A device without nodes needs none, and the CDI allows none: its name is empty. Errors wrap ErrName or are the file
// system's.
func (d Dir) Write(resource, id string, nodes []Node) (name string, err error) {
	device, err := deviceName(resource, id)
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.root(), fileName(device))
	if len(nodes) == 0 {
		// What an earlier allocation needed, with another driver.
		return "", remove(path)
	}
	spec := specs.Spec{Version: version, Kind: Kind, Devices: []specs.Device{{Name: device}}}
	edits := &spec.Devices[0].ContainerEdits
	for _, n := range nodes {
		edits.DeviceNodes = append(edits.DeviceNodes, &specs.DeviceNode{Path: n.Container, HostPath: n.Host, Permissions: n.Permissions})
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("encode CDI specification of %s: %w", device, err)
	}
	return Kind + "=" + device, write(path, data)
}

// A Device is one that a pod has.
type Device struct{ Resource, ID string }

// Sweep removes the specifications of all devices but those in use. It tries all, and joins the errors.
func (d Dir) Sweep(inUse []Device) (removed []string, err error) {
	keep := map[string]bool{}
	for _, u := range inUse {
		if device, err := deviceName(u.Resource, u.ID); err == nil {
			keep[fileName(device)] = true // another one has no file
		}
	}
	entries, err := os.ReadDir(d.root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list CDI specifications: %w", err)
	}
	var faults []error
	for _, e := range entries {
		ours := strings.HasPrefix(e.Name(), filePrefix) && strings.HasSuffix(e.Name(), fileSuffix)
		if !ours || keep[e.Name()] {
			continue
		}
		if err := remove(filepath.Join(d.root(), e.Name())); err != nil {
			faults = append(faults, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(faults...)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove CDI specification: %w", err)
	}
	return nil
}

// write needs no fsync: the folder dies with the boot, as the containers do that the kubelet starts again by its own record
// of their devices. After a boot it allocates anew.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder for CDI specifications: %w", err)
	}
	// Runtimes pass by what does not end in .json or .yaml.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*.tmp")
	if err != nil {
		return fmt.Errorf("write CDI specification: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write CDI specification: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
