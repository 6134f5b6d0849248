// Package cniconf keeps the node's CNI configuration: the file that makes the container runtime call meta-cni, which in
// turn calls what was the node's network before.
package cniconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

const (
	// FileName is our file. Runtimes take the first by name.
	FileName = install.Conf
	// Plugin is the program that our file names.
	Plugin = "meta-cni"
	// tempName has none of the extensions that runtimes watch for.
	tempName = ".00-viaduct.tmp"
	// podAnnotations asks the runtime to pass the pod's annotations to the plugin; containerd does.
	podAnnotations = "io.kubernetes.cri.pod-annotations"
	maxFile        = network.MaxConfig
)

// What can be missing; test with errors.Is.
var (
	// ErrNoPlugin means that meta-cni is not installed yet.
	ErrNoPlugin = errors.New("the plugin meta-cni is not installed")
	// ErrNoDefault means that the node has no other network configuration yet.
	ErrNoDefault = errors.New("the node's default network has no configuration")
	// ErrNotLooked means that a Keeper has not looked at the folders yet.
	ErrNotLooked = errors.New("the node's CNI configuration has not been looked at yet")
	// ErrNotReady means that the node's default network is not ready.
	ErrNotReady = errors.New("the node's default network is not ready")
)

// A Default is the node's own network.
type Default struct {
	File         string          // its name in the folder
	List         json.RawMessage // as a CNI configuration list
	Capabilities []string        // the union of what its plugins declare
}

// Find returns the network that the runtime would use without us: the first file by name that is valid, not ours, and
// does not lead back to us. Skipped holds why files before it were passed over. The error wraps ErrNoDefault.
func Find(dir string) (d Default, skipped []error, err error) {
	paths, err := ondisk.List(dir)
	if err != nil {
		return d, nil, fmt.Errorf("list the CNI configurations: %w", err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if name == FileName {
			continue
		}
		found, bad := read(dir, name)
		if bad == nil {
			return found, skipped, nil
		}
		skipped = append(skipped, fmt.Errorf("%s: %w", name, bad))
	}
	return d, skipped, fmt.Errorf("%w: no usable .conf, .conflist or .json in %s; is a network add-on installed?", ErrNoDefault, dir)
}

func read(dir, name string) (Default, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return Default{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return Default{}, fmt.Errorf("not a plain file of at most %d bytes", maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Default{}, err
	}
	d := network.ParseFile(path, data)
	if d.Err != nil {
		return Default{}, d.Err
	}
	return Default{File: name, List: d.Config(), Capabilities: d.Capabilities()}, nil
}

// Options are what our file says beside the default network.
type Options struct {
	// DefaultNetworks is not empty if pods get networks that they do not ask for: meta-cni then asks the agent for each pod
	// but those of SystemNamespaces.
	DefaultNetworks  []string `json:"defaultNetworks,omitempty"`
	SystemNamespaces []string `json:"systemNamespaces,omitempty"`
	// BinDir is where plugins may be beside the runtime's folder.
	BinDir string `json:"binDir,omitempty"`
	// MultusDir is where Multus saved what it attached, if not where it usually does.
	MultusDir string `json:"cniDir,omitempty"`
	// NamespaceIsolation, with GlobalNamespaces and MultusNamespace, is the agent's to hold. They stand here for vfctl, which has
	// only the node's files.
	NamespaceIsolation bool     `json:"namespaceIsolation,omitempty"`
	GlobalNamespaces   []string `json:"globalNamespaces,omitempty"`
	MultusNamespace    string   `json:"multusNamespace,omitempty"`
}

// Render makes our file: one plugin, with the default network's list in it. The runtime passes to a plugin what that
// plugin declares, so it declares what the default network's plugins do. The list keeps its name: address leases are
// filed under it.
func Render(d Default, o Options) ([]byte, error) {
	capabilities := map[string]bool{podAnnotations: true}
	for _, c := range d.Capabilities {
		capabilities[c] = true
	}
	type plugin struct {
		Type         string            `json:"type"`
		Capabilities map[string]bool   `json:"capabilities"`
		Delegates    []json.RawMessage `json:"delegates"`
		Options
	}
	data, err := json.MarshalIndent(struct {
		CNIVersion string   `json:"cniVersion"`
		Name       string   `json:"name"`
		Plugins    []plugin `json:"plugins"`
	}{
		// libcni sends STATUS and GC only from 1.1.0 on.
		CNIVersion: "1.1.0", Name: "viaduct",
		Plugins: []plugin{{Type: Plugin, Capabilities: capabilities, Delegates: []json.RawMessage{d.List}, Options: o}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the CNI configuration: %w", err)
	}
	return append(data, '\n'), nil
}

// write puts our file in place by rename, within the folder: runtimes see a rename, and never half a file.
func write(dir string, data []byte) (err error) {
	defer func() { err = install.Denied(dir, err) }()
	temp := filepath.Join(dir, tempName)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(dir, FileName))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write the CNI configuration: %w", err), os.Remove(temp))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the CNI configuration's folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the CNI configuration's folder: %w", err)
	}
	return nil
}
