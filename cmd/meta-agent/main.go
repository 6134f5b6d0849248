// Meta-agent is the node agent of the meta CNI.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/viaduct-sriov/viaduct/internal/agent"
	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

const usage = `meta-agent runs once on each node, beside the CNI plugin meta-cni. It

  - tells meta-cni which networks a pod gets: from the pod's annotation k8s.v1.cni.cncf.io/networks, the
    NetworkAttachmentDefinitions that it names, and the devices that the kubelet gave to the pod;
  - publishes what the pod got in its annotation k8s.v1.cni.cncf.io/network-status;
  - keeps 00-viaduct.conflist in the CNI configuration folder, which makes the runtime call meta-cni, and in which the
    node's own network is kept as it was. It is never removed when the agent stops: "vfctl node uninstall" does that.

It needs to get, list and watch pods and network-attachment-definitions, to patch pods/status, and to create events.
It waits for whatever is away: the API server, the kubelet, the node's own network.

Usage: meta-agent [flags]

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "meta-agent:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	if len(o.Node.Ignored) > 0 {
		o.Log.Warn("Keys of the configuration file mean nothing here and are ignored", "file", o.file, "keys", o.Node.Ignored)
	}
	klog.SetSlogLogger(o.Log.With("from", "client-go"))
	if o.API, err = apiConfig(o.kubeconfig); err != nil {
		return err
	}
	return agent.Run(ctx, o.Config)
}

type options struct {
	agent.Config
	kubeconfig string
	file       string // Multus' configuration file
	level      slog.Level
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("meta-agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	fs.StringVar(&o.NodeName, "node-name", getenv("NODE_NAME"), "this node's `name` in the cluster; without it, $NODE_NAME")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "a kubeconfig `file`; without it, the pod's service account")
	fs.StringVar(&o.Socket, "socket", agentapi.DefaultSocket, "the `path` where meta-cni asks")
	fs.StringVar(&o.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "the runtime's `folder` of CNI configurations")
	fs.StringVar(&o.BinDir, "cni-bin-dir", "/opt/cni/bin", "the runtime's `folder` of CNI plugins")
	fs.StringVar(&o.NetworksDir, "networks-dir", ondisk.DefaultFolder,
		"the `folder` of configurations for NetworkAttachmentDefinitions without a spec.config")
	fs.StringVar(&o.JournalDir, "journal-dir", "/var/lib/viaduct/pods", "the `folder` of meta-cni's records")
	fs.StringVar(&o.PodResourcesSocket, "pod-resources-socket", "/var/lib/kubelet/pod-resources/kubelet.sock",
		"the kubelet's `socket` that tells which devices a pod has")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9478", "`host:port` of /metrics, /healthz and /readyz; empty for none")
	fs.DurationVar(&o.LookupTimeout, "lookup-timeout", agent.DefaultLookupTimeout,
		"how `long` a pod may wait for the API server to tell of an object that is not known yet")
	fs.StringVar(&o.file, "config", "", "Multus' configuration `file`, taken as it is; flags win over it")
	o.Node = network.DefaultNodeConfig()
	fs.BoolVar(&o.Node.Policy.Isolated, "namespace-isolation", false,
		"keep pods to the NetworkAttachmentDefinitions of their own namespace and of --global-namespaces")
	fs.Func("global-namespaces", "with --namespace-isolation, the `namespaces`, separated by commas, whose definitions are for every pod (default \"default\")",
		func(value string) (err error) {
			o.Node.Policy.Global, err = network.ParseNamespaces(value)
			return err
		})
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "the least `level` to log: debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see --help", fs.Arg(0))
	}
	if o.file != "" {
		if err := o.readFile(fs); err != nil {
			return o, fmt.Errorf("--config %s: %w", o.file, err)
		}
	}
	if o.NodeName == "" {
		return o, errors.New("no node name: set --node-name, or NODE_NAME from spec.nodeName in the DaemonSet")
	}
	return o, nil
}

// readFile takes what the flags leave open from Multus' configuration.
func (o *options) readFile(flags *flag.FlagSet) error {
	data, err := os.ReadFile(o.file)
	if err != nil {
		return err
	}
	node, err := network.ParseNodeConfig(data)
	if err != nil {
		return err
	}
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if set["namespace-isolation"] {
		node.Policy.Isolated = o.Node.Policy.Isolated
	}
	if set["global-namespaces"] {
		node.Policy.Global = o.Node.Policy.Global
	}
	if !set["networks-dir"] && node.ConfDir != "" {
		o.NetworksDir = node.ConfDir
	}
	if level, ok := levels[node.LogLevel]; ok && !set["log-level"] {
		o.level = level
	}
	o.Node = node
	return nil
}

// levels are Multus' names for how much to log.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "verbose": slog.LevelInfo, "error": slog.LevelWarn, "panic": slog.LevelWarn,
}

// apiConfig reads how to reach the API server. The service account's token is read again by client-go as it is rotated.
func apiConfig(kubeconfig string) (*rest.Config, error) {
	var (
		config *rest.Config
		err    error
	)
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server (outside a pod, give --kubeconfig): %w", err)
	}
	config.UserAgent = "viaduct-meta-agent"
	return config, nil
}
