package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/pkg/pci/names"
)

// options are where things are on the node, for all commands that look at it.
type options struct {
	node    operator.Node
	verbose bool
}

func (o *options) addTo(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&o.node.Root, "root", "/", "the node's file system, or a tree of files that was captured on one (node/ in a report)")
	f.StringVar(&o.node.StateDir, "state-dir", "", "the folder of the VF records (default: as /etc/viaduct/sriov.json says, else /run/viaduct/vf)")
	f.StringVar(&o.node.JournalDir, "journal-dir", "", "the folder of meta-cni's journals (default: as its configuration says, else /var/lib/viaduct/pods)")
	f.StringVar(&o.node.RunDir, "run-dir", "", "meta-cni's folder of locks and running plugins (default: as its configuration says, else /run/viaduct/pods)")
	f.StringVar(&o.node.PoolsFile, "config-file", "", "the device plugin's configuration (default: /etc/pcidp/config.json, else the newest that the kubelet has mounted)")
	f.StringVar(&o.node.Prefix, "resource-prefix", "intel.com", "the prefix of resources whose pool names none, as the device plugin has it")
	f.StringVar(&o.node.NodeName, "node-name", os.Getenv("NODE_NAME"), "this node's name, for its own pools (default: $NODE_NAME, else the host's name)")
	f.StringVar(&o.node.KubeletRoot, "kubelet-root", "/var/lib/kubelet", "the kubelet's root folder, with pod-resources/ and pods/")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also log what is done, on standard error")
}

// find completes the options.
func (o *options) find(cmd *cobra.Command) (*operator.Node, error) {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	n := o.node
	n.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	n.Names = names.Load(n.Root).Device
	return &n, n.Find()
}

// output is the flag -o.
type output string

func (out *output) addTo(cmd *cobra.Command) {
	*out = "text"
	cmd.Flags().StringVarP((*string)(out), "output", "o", "text", "text for people, json for programs")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// write prints v as JSON, or by text.
func (out output) write(w io.Writer, v any, text func(io.Writer) error) error {
	switch out {
	case "text":
		return text(w)
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return fmt.Errorf("-o %s: want text or json", string(out))
}
