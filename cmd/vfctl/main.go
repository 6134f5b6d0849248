// Command vfctl is what an operator runs on a node: it installs the CNI plugins there, and shows and mends VFs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vfctl:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "vfctl",
		Short: "Install and look after SR-IOV networking on a Kubernetes node",
		Long: `vfctl is what an operator runs on a node of a cluster that uses Viaduct.

It works on the node itself, as root, and needs no API server.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	root.AddCommand(newExplain(), newNode(), newVersion())
	return root
}

// help is what a command does that only has sub-commands. Having it run makes cobra refuse an unknown sub-command instead
// of showing help with exit status 0.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }
