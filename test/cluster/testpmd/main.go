// Command testpmd writes an OCI archive of the image localhost/testpmd:1: DPDK's testpmd, out of this machine's Debian.
//
//	testpmd FILE
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/viaduct-sriov/viaduct/test/cluster/ociimage"
	"github.com/viaduct-sriov/viaduct/test/cluster/thirdparty"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testpmd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments, want the file to write", len(args))
	}
	if err := thirdparty.InstallPackages(ctx, logf); err != nil { // busybox is one of them
		return err
	}
	return ociimage.WriteTestpmd(ctx, args[0], logf)
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "testpmd: "+format+"\n", args...) }
