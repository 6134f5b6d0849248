// Package operator is what a person on a node sees and does: every VF with its pool, owner and settings, what is not as it
// should be, and how to mend it. It asks the kernel, the records of the CNI plugins and the kubelet, and no API server.
package operator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
)

// A Node is where things are on a node. Empty fields but Root mean what Find finds.
type Node struct {
	Root string // "/", or a tree that was captured on a node: then nothing but files is looked at

	StateDir   string // VF records
	JournalDir string // attachment journals
	RunDir     string // the locks of the sandboxes, and which plugin runs
	LogDir     string // the CNI plugin's log files

	PoolsFile   string // the device plugin's configuration
	Prefix      string // of resources whose pool names none
	NodeName    string // <node name>.json beside PoolsFile wins over it
	Namespace   string // of our own pods
	KubeletRoot string
	CNIBinDir   string
	CNIConfDir  string

	Names func(vendor, device string) (vendorName, deviceName string) // nil: only ids are known
	Log   *slog.Logger
}

// Find fills in the fields that are empty: from the files in which a node's owner may move folders, and else with what
// they are everywhere.
func (n *Node) Find() error {
	site, err := sriov.ReadSite(n.path(sriov.SiteFile))
	if err != nil && n.captured() {
		// Whoever unpacked the tree owns its files.
		site, err = sriov.Site{StateDir: sriov.DefaultDir, LogDir: sriov.DefaultLog}, nil
	}
	if err != nil && n.StateDir == "" {
		return fmt.Errorf("%w (or name the folder of the VF records with --state-dir)", err)
	}
	orDefault(&n.StateDir, site.StateDir)
	orDefault(&n.LogDir, site.LogDir)
	orDefault(&n.CNIConfDir, "/etc/cni/net.d")
	orDefault(&n.CNIBinDir, "/opt/cni/bin")
	orDefault(&n.KubeletRoot, "/var/lib/kubelet")
	orDefault(&n.Prefix, "intel.com")
	orDefault(&n.Namespace, "viaduct")
	meta := n.readMeta()
	orDefault(&n.JournalDir, meta.StateDir)
	orDefault(&n.RunDir, meta.RunDir)
	if n.NodeName == "" {
		n.NodeName, _ = os.Hostname() // the kubelet's default, too
	}
	if n.PoolsFile == "" {
		n.PoolsFile = n.findPools()
	}
	return nil
}

func orDefault(s *string, otherwise string) {
	if *s == "" {
		*s = otherwise
	}
}

func (n *Node) captured() bool { return filepath.Clean(n.Root) != "/" }

// path is where a path of the node is for us.
func (n *Node) path(p string) string { return filepath.Join(n.Root, p) }

// A metaConfig is what the meta CNI plugin's configuration says of where its files are, and of its patience.
type metaConfig struct {
	Type          string  `json:"type"`
	StateDir      string  `json:"stateDir"`
	RunDir        string  `json:"runDir"`
	BinDir        string  `json:"binDir"`
	DeviceInfoDir string  `json:"deviceInfoDir"`
	MultusDir     string  `json:"cniDir"`
	PluginTimeout float64 `json:"pluginTimeoutSeconds"`
	LockWait      float64 `json:"lockWaitSeconds"`
}

// readMeta reads it, for it may move folders; what it does not say, or if there is none, is as it is everywhere.
func (n *Node) readMeta() (c metaConfig) {
	var list struct {
		Plugins []metaConfig `json:"plugins"`
	}
	data, err := readFile(n.path(filepath.Join(n.CNIConfDir, install.Conf)))
	if err == nil && json.Unmarshal(data, &list) == nil {
		for _, p := range list.Plugins {
			if p.Type == "meta-cni" {
				c = p
				break
			}
		}
	}
	orDefault(&c.StateDir, delegate.DefaultDir)
	orDefault(&c.RunDir, delegate.DefaultRunDir)
	orDefault(&c.DeviceInfoDir, devinfo.DefaultRoot)
	return c
}

// Plugin is the CNI plugin's code, on this node's records.
func (n *Node) Plugin() *sriov.Plugin {
	p := sriov.New(n.path(n.StateDir), n.Log)
	p.Root, p.Out = n.Root, io.Discard
	p.Theirs, p.Path = takeover.SRIOV(n.path(takeover.SRIOVDir)), n.CNIBinDir
	return p
}

// Runner is the meta CNI plugin's code, on this node's journals, as its configuration has it.
func (n *Node) Runner() *delegate.Runner {
	meta := n.readMeta()
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return &delegate.Runner{
		Records: delegate.Records(n.path(n.JournalDir)), Running: journal.Store{Dir: n.path(n.RunDir), Version: 1},
		Path: strings.Trim(n.CNIBinDir+":"+meta.BinDir, ":"), Devices: devinfo.Dir{Root: n.path(meta.DeviceInfoDir)},
		Multus:  takeover.Multus(n.path(cmp.Or(meta.MultusDir, takeover.MultusDir))),
		Timeout: seconds(meta.PluginTimeout), LockWait: seconds(meta.LockWait), Stderr: io.Discard, Log: n.Log,
	}
}

// maxFile bounds what is read of one file.
const maxFile = 8 << 20

// readFile reads a plain file of a bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no plain file")}
	case info.Size() > maxFile:
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes", maxFile)}
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
