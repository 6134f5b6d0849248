package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/viaduct-sriov/viaduct/test/lab/vm"
)

// options are what a person chooses of the cluster.
type options struct {
	node      bool
	images    []string
	manifests []string
	pfs, vfs  int
	numa      int
	joined    bool
	memory    int
	cpus      int
	persist   string
	artefacts string
	command   []string
}

func newFlags(o *options) *flag.FlagSet {
	f := flag.NewFlagSet("cluster", flag.ContinueOnError)
	f.BoolVar(&o.node, "node", true, "a node; false leaves the control plane alone, and CMD runs on this machine, in its network namespace")
	f.Func("image", "OCI `archive` to import on the node; may be repeated", func(v string) error {
		o.images = append(o.images, v)
		return nil
	})
	f.Func("apply", "`manifest` (a file, or a folder with a kustomization) to apply before there is a node; may be repeated", func(v string) error {
		o.manifests = append(o.manifests, v)
		return nil
	})
	f.IntVar(&o.pfs, "pfs", 2, "`number` of SR-IOV NICs")
	f.IntVar(&o.vfs, "vfs", 4, fmt.Sprintf("`number` of VFs made on each of them, %d at most", vm.MaxVFs))
	f.IntVar(&o.numa, "numa", 2, "`number` of NUMA nodes")
	f.BoolVar(&o.joined, "joined", true, "put all NICs on one Ethernet segment")
	f.IntVar(&o.memory, "memory", vm.MaxMemoryMiB, "memory of the node, in `MiB`")
	f.IntVar(&o.cpus, "cpus", 1, "`number` of the node's CPUs")
	f.StringVar(&o.persist, "persist", "", "`folder` for the cluster's state: the next start on it is the same cluster, its node rebooted")
	f.StringVar(&o.artefacts, "artefacts", "", "`folder` for the logs")
	return f
}

// parseOptions reads the arguments of run or shell, args[0].
func parseOptions(args []string) (options, error) {
	var o options
	f := newFlags(&o)
	f.SetOutput(os.Stderr)
	if err := f.Parse(args[1:]); err != nil {
		return o, err
	}
	o.command = f.Args()
	if args[0] == "shell" {
		if len(o.command) > 0 {
			return o, fmt.Errorf("shell takes no command, got %q", o.command)
		}
		o.command = []string{"bash", "-i"}
	}
	if len(o.command) == 0 {
		return o, errors.New("run: no command given")
	}
	if o.vfs < 0 || o.vfs > vm.MaxVFs {
		return o, fmt.Errorf("--vfs %d: a NIC has 0 to %d", o.vfs, vm.MaxVFs)
	}
	return o, o.absolute()
}

// absolute makes the paths hold in the guest, and finds out now about an image or a manifest that is not there.
func (o *options) absolute() error {
	for name, paths := range map[string][]string{"image": o.images, "apply": o.manifests} {
		for i := range paths {
			path, err := filepath.Abs(paths[i])
			if err == nil {
				_, err = os.Stat(path)
			}
			if err != nil {
				return fmt.Errorf("--%s %s: %w", name, paths[i], err)
			}
			paths[i] = path
		}
	}
	if strings.Contains(o.command[0], "/") {
		path, err := filepath.Abs(o.command[0])
		if err != nil {
			return err
		}
		o.command[0] = path
	}
	return nil
}
