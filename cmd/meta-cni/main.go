// Command meta-cni is the CNI plugin that joins a pod's default network and its other ones. The runtime calls it; it asks
// the node agent what a pod gets, where that is not plain, and runs the networks' own plugins.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
)

// It listens for no signal. One that ends it ends its plugins, too, and leaves a record by which the next call undoes what
// they did; listening would cost each call three threads.
func main() {
	if err := run(); err != nil {
		if perr := err.Print(); perr != nil {
			fmt.Fprintln(os.Stderr, "meta-cni: cannot print the error:", perr, "; it was:", err)
		}
		os.Exit(1)
	}
}

func run() *types.Error {
	// Standard output carries the result alone.
	p := plugin{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	verbs := skel.CNIFuncs{Add: p.add, Del: p.del, Check: p.check, Status: p.status, GC: p.gc}
	if os.Getenv(delegate.InsideVariable) != "" {
		verbs = nested
	}
	return skel.PluginMainFuncsWithError(verbs, version.All, "Viaduct meta CNI plugin "+buildVersion())
}

// nested is what a call from a plugin of one of our networks gets, such as one that passes on a "delegate" of its
// configuration: that is a network's author's, who must not say from which folders programs run as root and where they write.
// Nothing is attached so, and nothing is to be detached.
var nested = skel.CNIFuncs{Add: isNested, Check: isNested, Status: isNested, Del: nothing, GC: nothing}

func isNested(*skel.CmdArgs) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "meta-cni cannot be called by a plugin of one of its own networks",
		"name the plugin that attaches the network where this one names meta-cni, such as in its delegate")
}

func nothing(*skel.CmdArgs) error { return nil }

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
