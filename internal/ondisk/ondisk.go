// Package ondisk finds networks' CNI configurations on a node's disk.
package ondisk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// DefaultFolder is where Multus looks, too.
const DefaultFolder = "/etc/cni/multus/net.d"

// A Folder holds CNI configurations.
type Folder string

// Complete gives a definition the configuration whose JSON name is the definition's. Without one it returns the
// definition as it is.
func (f Folder) Complete(d *network.Definition) (*network.Definition, error) {
	path, data, err := f.named(d.Name)
	if err != nil || path == "" {
		return d, err
	}
	return d.WithConfig(path, data), nil
}

// Named is the configuration whose JSON name is name, as a definition without a namespace; nil if there is none.
func (f Folder) Named(name string) (*network.Definition, error) {
	path, data, err := f.named(name)
	if err != nil || path == "" {
		return nil, err
	}
	return network.ParseFile(path, data), nil
}

// named looks through the .conflist files, then through the .conf and .json files, in the order of their names.
func (f Folder) named(name string) (path string, data []byte, err error) {
	for _, extensions := range [][]string{{".conflist"}, {".conf", ".json"}} {
		paths, err := list(string(f), extensions...)
		if err != nil {
			return "", nil, fmt.Errorf("look for the configuration of network %s: %w", name, err)
		}
		for _, path := range paths {
			data, err := read(path)
			var named struct {
				Name string `json:"name"`
			}
			if err != nil || json.Unmarshal(data, &named) != nil || named.Name != name {
				continue // somebody else's file, or one that is just being written
			}
			return path, data, nil
		}
	}
	return "", nil, nil
}

// At reads the configuration at path: a file, or of a folder the first .conf, .conflist or .json by name. It is nil if
// there is none.
func At(path string) (*network.Definition, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		var paths []string
		if paths, err = List(path); len(paths) > 0 {
			path = paths[0]
		} else if err == nil {
			return nil, nil //nolint:nilnil // nil is the answer
		}
	}
	var data []byte
	if err == nil {
		data, err = read(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nil is the answer
	}
	if err != nil {
		return nil, err
	}
	return network.ParseFile(path, data), nil
}

// List is the paths of the files in a folder that a container runtime reads as network configurations, in its order; none if
// there is no such folder.
func List(dir string) ([]string, error) { return list(dir, ".conf", ".conflist", ".json") }

func list(dir string, extensions ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains(extensions, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// read takes of a file no more than a configuration may have, and one byte, so that too much is seen to be too much.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read a network's configuration: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read a network's configuration: %s is no plain file", path) // opening a pipe would wait
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a network's configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, network.MaxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read a network's configuration: %w", err)
	}
	return data, nil
}
