// Package takeover reads what other projects' CNI plugins have left on a node, so that pods which they attached are torn
// down by ours: Multus' saved delegates, and the cache of sriov-cni. It reads and removes; whose word counts is said by the
// packages that use it.
//
// The formats are nobody's promise. They were captured on a node with multus-cni 4.3 and sriov-cni 2.10 (testdata/node);
// fields that another version lacks are taken for unknown.
package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What a read can answer besides success; test with errors.Is.
var (
	// ErrNotExist means that the other project knows nothing of it.
	ErrNotExist = errors.New("nothing saved")
	// ErrCorrupt means that there is a file which cannot be what it should be.
	ErrCorrupt = errors.New("saved state cannot be read")
)

// Where both projects keep their state unless they are told otherwise.
const (
	MultusDir = "/var/lib/cni/multus"
	SRIOVDir  = "/var/lib/cni/sriov"
)

// maxFile bounds what a read takes into memory.
const maxFile = 8 << 20

// Multus is the folder where Multus saves what it attached, its cniDir, on a node /var/lib/cni/multus:
//
//	<container id>                              a JSON array of its delegates, the default network first
//	results/<network>-<container id>-<ifname>   libcni's cache of each: configuration, arguments, result
type Multus string

// A Delegate is one network of a sandbox as Multus saved it.
type Delegate struct {
	Name   string          // of the definition, namespace/name; of the configuration, for the default network
	IfName string          // empty for the default network: it is the runtime's
	Config json.RawMessage // a CNI configuration or list, with the device's id in it

	Cached        // of its last ADD; zero if there is no file of it
	Entry  string // that file; empty if there is none
}

// Cached is what libcni keeps of an ADD.
type Cached struct {
	Netns        string                     `json:"netns"`
	Capabilities map[string]json.RawMessage `json:"capabilityArgs"`
	Args         [][2]string                `json:"cniArgs"`
	Result       json.RawMessage            `json:"result"`
	Config       []byte                     `json:"config"`

	Kind        string `json:"kind"`
	ContainerID string `json:"containerId"`
	IfName      string `json:"ifName"`
	NetworkName string `json:"networkName"`
}

// CNIArgs is Args as CNI_ARGS has them.
func (c *Cached) CNIArgs() string {
	pairs := make([]string, len(c.Args))
	for i, a := range c.Args {
		pairs[i] = a[0] + "=" + a[1]
	}
	return strings.Join(pairs, ";")
}

// Sandbox reads what Multus saved of the container, whose default network's interface is ifName. Errors wrap ErrNotExist or
// ErrCorrupt, or are the file system's own. containerID must be fit for a file's name.
func (m Multus) Sandbox(containerID, ifName string) ([]Delegate, error) {
	path := m.path(containerID)
	var saved []struct {
		Name    string `json:"Name"`
		Request string `json:"ifnameRequest"`
		Bytes   []byte `json:"Bytes"`
	}
	if err := readJSON(path, &saved); err != nil {
		return nil, err
	}
	if len(saved) == 0 {
		return nil, fmt.Errorf("%w: %s names no network", ErrCorrupt, path)
	}
	var out []Delegate
	for i, s := range saved {
		d := Delegate{Name: s.Name, IfName: s.Request, Config: s.Bytes}
		switch {
		case i == 0:
			d.IfName = ifName
		case d.IfName == "":
			d.IfName = fmt.Sprint("net", i)
		}
		var named struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(s.Bytes, &named); err != nil {
			return nil, fmt.Errorf("%w: %s: configuration of network %q: %w", ErrCorrupt, path, s.Name, err)
		}
		var err error
		if d.Cached, d.Entry, err = cached(filepath.Join(string(m), "results"), named.Name, containerID, d.IfName); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// Containers lists the ids of the containers that Multus has saved something of.
func (m Multus) Containers() ([]string, error) {
	all, err := plainFiles(string(m))
	return slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, ".") }), err
}

// SetAside renames the container's file, so that it is looked at by a person and never again by Sandbox. It returns where
// it is now.
func (m Multus) SetAside(containerID string) (string, error) {
	path := m.path(containerID) + ".viaduct-corrupt"
	return path, os.Rename(m.path(containerID), path)
}

// Forget removes what is saved of the container: delegates as Sandbox gave them may be nil, if their files are gone already.
func (m Multus) Forget(containerID string, delegates []Delegate) error {
	var errs []error
	for _, d := range delegates {
		if d.Entry != "" {
			errs = append(errs, remove(d.Entry))
		}
	}
	return errors.Join(append(errs, remove(m.path(containerID)))...)
}

func (m Multus) path(containerID string) string { return filepath.Join(string(m), containerID) }

// cached reads libcni's cache of one attachment; both results are empty if there is none. An entry of something else that
// happens to have this name is none.
func cached(dir, network, containerID, ifName string) (c Cached, path string, err error) {
	path = filepath.Join(dir, network+"-"+containerID+"-"+ifName)
	if filepath.Dir(path) != filepath.Clean(dir) {
		return c, "", fmt.Errorf("%w: a network called %q", ErrCorrupt, network)
	}
	err = readJSON(path, &c)
	if errors.Is(err, ErrNotExist) {
		return Cached{}, "", nil
	}
	if err == nil && (c.ContainerID != containerID || c.IfName != ifName || c.NetworkName != network) {
		return Cached{}, "", nil
	}
	if err != nil { // it only adds to what the delegates say
		return Cached{}, path, nil //nolint:nilerr // see above
	}
	return c, path, nil
}

// plainFiles names those in a folder; none if there is no such folder.
func plainFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list saved state: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func readJSON(path string, v any) error {
	data, err := read(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return nil
}

func read(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotExist, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read saved state: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%w: %s is no plain file of at most %d bytes", ErrCorrupt, path, maxFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read saved state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read saved state: %w", err)
	}
	return data, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove saved state: %w", err)
	}
	return nil
}
