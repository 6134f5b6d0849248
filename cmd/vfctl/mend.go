package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

func newRestore(o *options) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "restore VF",
		Short: "Put one VF back as it was before its pod",
		Long: `Restore puts a VF back: into the host's network namespace, under its own name, with the settings that it had before
its first pod. It is the CNI plugin's own work, under the same lock: a pod that starts or ends on this VF waits, or
is waited for. Addresses of the VF's last owner are given back to its IPAM plugin.

A VF that is free, and that somebody has changed since, is put back as well.

A VF whose owner is alive is refused: delete the pod instead. --force takes it from the pod all the same, and resets
one whose record cannot be read to safe defaults (no VLAN, spoof check on, trust off), keeping that record aside. So is
a VF refused that is free by its record, or whose owner is gone and that has no interface, while the kubelet does not
say what pods have; and one that the kubelet gave to another pod since. Addresses that the IPAM plugin does not take
back are an error, and stay on record; --force gives them up.`,
		Example: `  vfctl restore 0000:02:10.6
  vfctl restore ens2#3
  vfctl restore --force 02:10.6       take it from a pod that runs`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := o.find(cmd)
			if err != nil {
				return err
			}
			address, outcome, err := n.Restore(cmd.Context(), args[0], force)
			switch {
			case errors.Is(err, sriov.ErrLiving), errors.Is(err, operator.ErrHeld):
				return fmt.Errorf("%w\ndelete the pod; or take the VF from it with --force", err)
			case errors.Is(err, operator.ErrUnknown):
				return fmt.Errorf("%w\nwhen you know that no pod uses it: --force", err)
			case errors.Is(err, sriov.ErrUnreadable):
				return fmt.Errorf("%w\n--force sets the record aside and resets the VF to safe defaults", err)
			case err != nil:
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", address, outcome)
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if a pod has it or may have it, or its record cannot be read")
	return cmd
}

func newGC(o *options) *cobra.Command {
	var out output
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Put back everything whose owner is gone",
		Long: `Gc looks for what nobody will come for any more, and finishes it:

  sandboxes  on record with meta-cni, whose network namespace is gone: the plugins of their networks get their DEL,
             so that addresses and VFs come back
  VFs        on record with sriov, whose owner is gone or that did not get back: as vfctl restore does; and what a VF
             owes: addresses, a rate or a name that could not be given back
  records    of VFs that are no more, and of before the last boot

The next pods would do the same, each for its own VF, and meta-cni every ten minutes. What lives is not touched.
It fails if something is left, and says what.`,
		Example: `  vfctl gc --dry-run      only say what would be done
  vfctl gc`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.node.JournalDir != "" && o.node.RunDir == "" && !dryRun {
				return errors.New("--journal-dir needs --run-dir, too: the locks by which meta-cni and this command keep out of each other's way are there")
			}
			n, err := o.find(cmd)
			if err != nil {
				return err
			}
			all, gcErr := n.GC(cmd.Context(), dryRun)
			if all == nil {
				all = []operator.Collected{}
			}
			return errors.Join(out.write(cmd.OutOrStdout(), all, operator.Table(all)), gcErr)
		},
	}
	out.addTo(cmd)
	cmd.Flags().StringVar(&o.node.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "the runtime's folder of CNI plugins, for the networks' DEL")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, and say what would be done")
	return cmd
}
