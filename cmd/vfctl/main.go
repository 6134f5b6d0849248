// Command vfctl is what an operator runs on a node: it shows the VFs and what is wrong with them, mends them, and installs
// the CNI plugins there.
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
		Short: "Look after SR-IOV networking on a Kubernetes node",
		Long: `vfctl is what an operator runs on a node of a cluster that uses Viaduct.

It works on the node itself, as root, and needs no API server. "list" is where to start: each line that begins
with ! is something that is not as it should be, in words.`,
		Example: `  vfctl list                       every PF and VF: pool, driver, owner, settings, and what is wrong
  vfctl show ens2#3                all about one VF; an address such as 0000:02:10.6 does as well
  vfctl restore 0000:02:10.6       put one VF back as it was before its pod
  vfctl gc                         put back everything whose owner is gone
  vfctl report                     a file to send to whoever is to help`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	o := &options{}
	o.addTo(root)
	root.AddCommand(newList(o), newShow(o), newRestore(o), newGC(o), newReport(o), newExplain(), newNode(o), newVersion())
	return root
}

// help is what a command does that only has sub-commands. Having it run makes cobra refuse an unknown sub-command instead
// of showing help with exit status 0.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }
