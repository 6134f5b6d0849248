// Command meta-cni is the CNI plugin that joins a pod's default network and its other ones. The runtime calls it; it asks
// the node agent what a pod gets, where that is not plain, and runs the networks' own plugins.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		if perr := err.Print(); perr != nil {
			fmt.Fprintln(os.Stderr, "meta-cni: cannot print the error:", perr, "; it was:", err)
		}
		os.Exit(1)
	}
}

func run() *types.Error {
	return skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: stoppable(plugin.add), Del: stoppable(plugin.del), Check: stoppable(plugin.check),
		Status: stoppable(plugin.status), GC: stoppable(plugin.gc),
	}, version.All, "Viaduct meta CNI plugin "+buildVersion())
}

// stoppable makes a verb of call. A call that is told to stop undoes what it has begun; one that is killed leaves that to
// the next call. Listening for signals takes threads, so it begins no sooner.
func stoppable(call func(plugin, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		// Standard output carries the result alone.
		return call(plugin{ctx: ctx, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}, args)
	}
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
