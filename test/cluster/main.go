// Command cluster runs a program on a real single-node Kubernetes: etcd, the API server, its controllers and scheduler on
// this machine, in a network namespace of their own; containerd, kubelet and kube-proxy in a lab VM with SR-IOV NICs, where
// the program runs, too. Nothing of the machine is touched, and nothing stays when it ends.
//
//	cluster build                      builds the third-party programs, once, into the cache
//	cluster run [flags] -- CMD [ARG…]  runs CMD as root on the node, with KUBECONFIG set and kubectl on PATH
//	cluster shell [flags]              the same with a shell
//
// As the runner of tests: the Makefile's test-cluster.
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
	"runtime"
	"syscall"

	"github.com/viaduct-sriov/viaduct/test/cluster/node"
	"github.com/viaduct-sriov/viaduct/test/cluster/thirdparty"
	"github.com/viaduct-sriov/viaduct/test/lab/vm"
)

// The daemons die with the thread that started them, so main keeps to the one that ends last.
func init() { runtime.LockOSThread() }

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})))
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	exit, err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cluster:", err)
	}
	if err != nil && exit == 0 {
		exit = 1
	}
	os.Exit(exit)
}

func run(ctx context.Context, args []string) (exit int, err error) {
	if len(args) == 0 {
		usage(os.Stderr)
		return 2, errors.New("no command given")
	}
	switch args[0] {
	case "build":
		cache, err := vm.CacheDir()
		if err != nil {
			return 0, err
		}
		return 0, thirdparty.Build(ctx, cache, logf)
	case "run", "shell":
		return outside(ctx, args)
	case insideCommand: // hidden: run or shell again, in the control plane's namespaces
		return inside(ctx, args[1:])
	case nodeCommand: // hidden: what runs in the guest
		return onNode(ctx, args[1:])
	case "help", "-h", "--help":
		usage(os.Stdout)
		return 0, nil
	}
	usage(os.Stderr)
	return 2, fmt.Errorf("unknown command %q", args[0])
}

func onNode(ctx context.Context, args []string) (exit int, err error) {
	if len(args) < 2 {
		return 2, fmt.Errorf("%s wants its configuration's path and a command", nodeCommand)
	}
	config, err := node.Load(args[0])
	if err != nil {
		return 0, err
	}
	config.Command = args[1:]
	return node.Run(ctx, config)
}

func usage(w io.Writer) {
	fmt.Fprint(w, `usage:
  cluster build                      build the third-party programs, once, into the cache
  cluster run [flags] -- CMD [ARG…]  run CMD as root on the node of a new cluster
  cluster shell [flags]              the same with a shell
`)
	options := newFlags(new(options))
	options.SetOutput(w)
	fmt.Fprintln(w, "flags:")
	options.PrintDefaults()
}

// logf tells a person how far things are.
func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...) }
