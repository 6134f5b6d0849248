// Command lab runs programs in a virtual machine with SR-IOV NICs: see package vm.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/test/lab/vm"
)

// failed is the status when the lab itself fails, as with docker run and env.
const failed = 125

func main() {
	exit, err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		if exit == 0 {
			exit = failed
		}
	}
	os.Exit(exit)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (exit int, err error) {
	c := vm.Config{Stdout: stdout, Stderr: stderr}
	var joined, console bool
	root := &cobra.Command{
		Use: "lab", Short: "Run programs in a virtual machine with SR-IOV NICs",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			c.Separate = !joined
			c.Log = func(format string, args ...any) { fmt.Fprintf(stderr, "lab: "+format+"\n", args...) }
			if console {
				c.Console = stderr
			}
		},
	}
	root.SetArgs(args)
	f := root.PersistentFlags()
	f.IntVar(&c.PFs, "pfs", 2, "`number` of igb NICs; PF i is on NUMA node i mod --numa; -1 for none")
	f.IntVar(&c.VFs, "vfs", 0, fmt.Sprintf("`number` of VFs made on each of them at boot, %d at most", vm.MaxVFs))
	f.IntVar(&c.NUMANodes, "numa", 2, "`number` of NUMA nodes")
	f.BoolVar(&joined, "joined", true, "all PFs on one Ethernet segment; false gives each its own")
	f.IntVar(&c.MemoryMiB, "memory", 2048, "the guest's memory in `MiB`")
	f.IntVar(&c.CPUs, "cpus", 0, "`number` of CPUs (default 1; of several NUMA nodes the first have them)")
	f.StringVar(&c.Persist, "persist", "", "`folder` whose disk.img is /persist in the guest; it survives boots")
	f.StringVar(&c.Artefacts, "artefacts", "", "`folder` that is /artefacts in the guest, writable")
	f.BoolVar(&c.Uplink, "network", false, "add a virtio NIC on user networking, unconfigured (10.0.2.15/24; 10.0.2.2 is the host's loopback)")
	f.StringArrayVar(&c.HostForwards, "forward", nil, "with --network, a `rule` of QEMU's hostfwd, e.g. tcp:127.0.0.1:10250-10.0.2.15:10250")
	f.StringArrayVar(&c.Env, "env", nil, "environment of the command, `NAME=VALUE`, or NAME to pass it on")
	f.StringVar(&c.Dir, "dir", "", "`folder` the command starts in (default: this one)")
	f.DurationVar(&c.BootTimeout, "boot-timeout", 0, "how long a boot may take (default: 2m on an idle machine, longer on a busy one)")
	f.BoolVar(&console, "console", false, "show the guest's console")
	root.AddCommand(
		&cobra.Command{
			Use: "run [flags] -- COMMAND [ARGUMENT...]", Short: "Run a command in the lab, with its output and exit status",
			Args: cobra.MinimumNArgs(1),
			RunE: func(_ *cobra.Command, argv []string) error {
				if !vm.IsTerminal(os.Stdin) { // a terminal is for lab shell: reading it here would stop a job in the background
					c.Stdin = os.Stdin
				}
				exit, err = inLab(ctx, c, argv)
				return err
			},
		},
		&cobra.Command{
			Use: "shell [flags] [-- COMMAND [ARGUMENT...]]", Short: "Open a shell in the lab, or another command on a terminal",
			RunE: func(_ *cobra.Command, argv []string) error {
				if len(argv) == 0 {
					argv = []string{"/bin/bash", "-i"}
				}
				c.Stdin, c.TTY = os.Stdin, true
				exit, err = inLab(ctx, c, argv)
				return err
			},
		},
		&cobra.Command{
			Use: "prepare", Short: "Install and unpack what the lab needs, and boot nothing", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return vm.Prepare(ctx, c) },
		})
	if e := root.ExecuteContext(ctx); e != nil {
		return exit, e
	}
	return exit, nil
}

// inLab hands signals to the command in the guest: go test asks for a stack trace with SIGQUIT.
func inLab(ctx context.Context, c vm.Config, argv []string) (int, error) {
	for i, kv := range c.Env {
		if !strings.Contains(kv, "=") {
			c.Env[i] = kv + "=" + os.Getenv(kv)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	c.Signals = signals
	return vm.Run(ctx, c, argv)
}
