package offer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// A ConfigFile is the pools' configuration in a folder that may change at any time, as a mounted ConfigMap does: by the
// swap of a symbolic link, so a read sees the old or the new, never half of one. It is read, not watched: a look every
// few seconds at a few kilobytes cannot miss a change, be it by link, rename or remount.
type ConfigFile struct {
	Path   string // such as /etc/pcidp/config.json
	Node   string // <Node>.json beside Path wins over it; empty: it is not looked for
	Prefix string // the resource prefix of pools that name none

	inForce    *pool.Config
	generation int    // how many different configurations were in force
	problem    error  // with the file as it is now
	seen       []byte // the content that was looked at last
	file       string // where it was
}

// Read gives the file's content and its name.
func (c *ConfigFile) Read() (data []byte, file string, err error) {
	if c.Node != "" {
		file = filepath.Join(filepath.Dir(c.Path), filepath.Base(c.Node)+".json")
		data, err = os.ReadFile(file)
		if err == nil {
			return data, file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, file, fmt.Errorf("read configuration: %w", err)
		}
	}
	data, err = os.ReadFile(c.Path)
	if err != nil {
		return nil, c.Path, fmt.Errorf("read configuration: %w", err)
	}
	return data, c.Path, nil
}

// refresh looks at the file, and reports whether another configuration came into force. A faulty or missing file leaves
// the last good one there.
func (c *ConfigFile) refresh(log *slog.Logger, force bool) bool {
	data, file, err := c.Read()
	if err != nil {
		c.fail(log, file, nil, err)
		return false
	}
	if !force && c.seen != nil && file == c.file && bytes.Equal(data, c.seen) {
		return false
	}
	config, warnings, err := pool.Parse(data, c.Prefix)
	for _, w := range warnings { // also of a faulty one, so that all is mended at once
		log.Warn("the configuration is odd", "file", file, "where", w.Path, "line", w.Line, "what", w.Message)
	}
	if err != nil {
		c.fail(log, file, data, err)
		return false
	}
	c.inForce, c.problem, c.seen, c.file = config, nil, data, file
	c.generation++
	log.Info("configuration in force", "file", file, "generation", c.generation, "pools", len(config.Pools))
	return true
}

// fail logs a problem once, not at each look.
func (c *ConfigFile) fail(log *slog.Logger, file string, data []byte, err error) {
	repeated := c.problem != nil && c.problem.Error() == err.Error()
	c.problem, c.seen, c.file = err, data, file
	if repeated {
		return
	}
	effect := "nothing is offered until it is right"
	if c.inForce != nil {
		effect = "the last good configuration stays in force"
	}
	var faults pool.Faults
	if !errors.As(err, &faults) {
		log.Error("the configuration cannot be read", "effect", effect, "file", file, "err", err)
		return
	}
	for _, f := range faults {
		log.Error("the configuration is faulty", "effect", effect, "file", file, "line", f.Line, "where", f.Path, "what", f.Message)
	}
}
