package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

const usage = `device-plugin offers the node's SR-IOV devices to the kubelet as extended resources.

It reads pools from a file (the key config.json of the ConfigMap sriovdp-config), finds the PCI functions that belong to
them, and tells the kubelet of each change: of VFs, drivers, names, links, and of the file. It never offers a PF that has
VFs, nor an interface that carries the node's own traffic.

  device-plugin                              run on a node, as its DaemonSet does
  device-plugin -dry-run                     show each device, the pool it would go to, and why not to the others
  device-plugin -dry-run -config-file FILE   try a configuration before it goes into the ConfigMap
  device-plugin -dry-run -o json             the same for a program

A small configuration:

  {"resourceList": [{"resourceName": "sriov", "selectors": {"vendors": ["8086"], "pfNames": ["ens785f0#0-7"]}}]}

SIGHUP makes it read the file again (it looks every 2 s anyway). http://<metrics-address>/readyz says what it waits for.

Flags (one dash or two):

`

type options struct {
	config, prefix, nodeName    string
	root, kubeletRoot           string
	devicePluginDir, devInfoDir string
	podNamespace, podName       string
	after                       string
	cdi                         *cdi.Dir // nil: not used
	metrics                     string
	level                       slog.Level
	dryRun                      bool
	output                      string
	notices                     []string
}

func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (*options, error) {
	o := &options{podNamespace: getenv("POD_NAMESPACE"), podName: getenv("POD_NAME")}
	var logDir, cdiDir string
	var useCDI bool
	fs := flag.NewFlagSet("device-plugin", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	fs.StringVar(&o.config, "config-file", "/etc/pcidp/config.json", "`file` with the pools; <node-name>.json beside it wins over it")
	fs.StringVar(&o.prefix, "resource-prefix", "intel.com", "`prefix` of resources that name none")
	fs.StringVar(&o.nodeName, "node-name", getenv("NODE_NAME"), "this node's `name`; default $NODE_NAME")
	fs.StringVar(&o.root, "root", "/", "`folder` below which sys/ is found, for trees captured elsewhere")
	fs.StringVar(&o.kubeletRoot, "kubelet-root", "/var/lib/kubelet", "the kubelet's root `folder`, with plugins_registry and pod-resources")
	fs.StringVar(&o.devicePluginDir, "device-plugin-dir", "/var/lib/kubelet/device-plugins", "`folder` of kubelet.sock, which does not move with the kubelet's root")
	fs.StringVar(&o.devInfoDir, "device-info-dir", devinfo.DefaultRoot, "`folder` for device-info files")
	fs.StringVar(&o.after, "wait-for-file", getenv("WAIT_FOR_FILE"), "offer nothing before this `file` is there, such as the meta CNI's configuration; default $WAIT_FOR_FILE")
	fs.StringVar(&o.metrics, "metrics-address", "127.0.0.1:9808", "`address` for /metrics, /healthz and /readyz; empty for none")
	fs.Func("log-level", "debug, info, warn or error; or a `level` of the older device plugin (panic, fatal, warning; a number is info)", o.setLevel)
	fs.StringVar(&logDir, "log-dir", "", "ignored: the log goes to standard error")
	fs.BoolVar(&useCDI, "use-cdi", false, "hand out device nodes by CDI specifications instead of in the answer to the kubelet")
	fs.StringVar(&cdiDir, "cdi-dir", cdi.DefaultRoot, "`folder` for CDI specifications, one of those where the container runtime looks")
	fs.BoolVar(&o.dryRun, "dry-run", false, "show what would be offered, and exit")
	fs.StringVar(&o.output, "o", "text", "`format` of -dry-run: text or json")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if logDir != "" {
		o.notices = append(o.notices, "-log-dir is ignored: the log goes to standard error")
	}
	if useCDI {
		o.cdi = &cdi.Dir{Root: cdiDir}
	}
	switch {
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: see -help", fs.Arg(0))
	case o.output != "text" && o.output != "json":
		return nil, fmt.Errorf("-o %s: want text or json", o.output)
	}
	return o, pool.CheckPrefix(o.prefix)
}

// setLevel takes the names that slog has, and what the older device plugin is given: names of its own, or a number (its
// image passes 10), of which 4 and more are for debugging there. Its number in a DaemonSet is a habit, not a wish: it is
// info here.
func (o *options) setLevel(s string) error {
	name := strings.ToLower(s)
	if _, err := strconv.ParseUint(name, 10, 16); err == nil {
		o.level = slog.LevelInfo
		return nil
	}
	older := map[string]string{"warning": "warn", "panic": "error", "fatal": "error"}
	return o.level.UnmarshalText([]byte(cmp.Or(older[name], name)))
}

// likeRunning puts the flags of the device plugin that runs in the same container before those of a dry run, which win: so the
// dry run looks at the file, folders and prefix of the DaemonSet. cmdline is what the kernel has of the running program.
func likeRunning(args []string, cmdline []byte) []string {
	isDryRun := func(arg string) bool {
		return strings.TrimLeft(arg, "-") == "dry-run" || strings.TrimLeft(arg, "-") == "dry-run=true"
	}
	running := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	if filepath.Base(running[0]) != "device-plugin" || !slices.ContainsFunc(args, isDryRun) {
		return args
	}
	return slices.Concat(running[1:], args)
}
