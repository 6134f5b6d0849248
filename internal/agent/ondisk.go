package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A ConfigFolder holds CNI configurations for definitions that have no spec.config.
type ConfigFolder string

// Complete gives a definition the configuration whose JSON name is the definition's: that of a .conflist, else of a
// .conf or .json, in the order of the files' names. Without one it returns the definition as it is.
func (f ConfigFolder) Complete(d *network.Definition) (*network.Definition, error) {
	entries, err := os.ReadDir(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the configuration of %s: %w", d.Network(), err)
	}
	for _, extensions := range [][]string{{".conflist"}, {".conf", ".json"}} {
		for _, e := range entries {
			path := filepath.Join(string(f), e.Name())
			ext := filepath.Ext(e.Name())
			if ext != extensions[0] && ext != extensions[len(extensions)-1] {
				continue
			}
			data, err := readBounded(path)
			var named struct {
				Name string `json:"name"`
			}
			if err != nil || json.Unmarshal(data, &named) != nil || named.Name != d.Name {
				continue // somebody else's file, or one that is just being written
			}
			return d.WithConfig(path, data), nil
		}
	}
	return d, nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, network.MaxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
