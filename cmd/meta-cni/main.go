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
	return skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: p.add, Del: p.del, Check: p.check, Status: p.status, GC: p.gc,
	}, version.All, "Viaduct meta CNI plugin "+buildVersion())
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
