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
	// A call that is told to stop undoes what it has begun. One that is killed leaves that to the next call.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		if perr := err.Print(); perr != nil {
			fmt.Fprintln(os.Stderr, "meta-cni: cannot print the error:", perr, "; it was:", err)
		}
		os.Exit(1) //nolint:gocritic // stop only restores signals
	}
}

func run(ctx context.Context) *types.Error {
	// Standard output carries the result alone.
	p := plugin{ctx: ctx, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
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
