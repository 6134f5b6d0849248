package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/operator"
)

func newList(o *options) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Show every PF and VF: pool, owner, settings, and what is not as it should be",
		Long: `List shows each PF (a NIC's port) and its VFs.

  POOL      the resource that it is offered as
  STATE     free        nobody has it
            allocated   the kubelet gave it to a pod, but no network of the pod has set it (DPDK without a network
                        definition, or a pod that is just being made)
            attached    it is in a pod
            adding      it is on its way into a pod
            removing    it is on its way back, or did not get there
            left        its owner is gone, and nobody has put it back yet
            unreadable  its record cannot be read: see vfctl restore --force
  OWNER     namespace/pod and the interface's name in it; a container id if the pod is not known
  SETTINGS  what the PF enforces on it and is not as everywhere

Below a VF stands what is wrong with it: where an attached VF differs from what its network set, and where a free
one differs from what it was before its first pod (somebody has changed it by hand, perhaps).

What a pod has is asked of the kubelet; without it, the records say. Nothing is changed, and no lock is taken.`,
		Example: `  vfctl list
  vfctl list -o json | jq '.pfs[].vfs[] | select(.differences)'
  vfctl list --root ./viaduct-report/node        what a report shows`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := look(cmd, o)
			if err != nil {
				return err
			}
			return out.write(cmd.OutOrStdout(), status, status.Print)
		},
	}
	out.addTo(cmd)
	return cmd
}

func newShow(o *options) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "show VF|PF",
		Short: "Show all about one VF, or a PF with its VFs",
		Long: `Show tells all about one VF: who has it, what its PF enforced before, what the network wanted, what is so now.

A VF is named by its PCI address (0000:02:10.6, or 02:10.6), by its PF and its number there (ens2#3), or by its
interface on the host; a PF by its address or interface.`,
		Example: `  vfctl show 0000:02:10.6
  vfctl show ens2#3 -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := look(cmd, o)
			if err != nil {
				return err
			}
			pf, v, err := status.Find(args[0])
			if err != nil {
				return err
			}
			if v == nil {
				return out.write(cmd.OutOrStdout(), pf, pf.Show)
			}
			return out.write(cmd.OutOrStdout(), v, func(w io.Writer) error { return v.Show(w, pf) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func look(cmd *cobra.Command, o *options) (*operator.Status, error) {
	n, err := o.find(cmd)
	if err != nil {
		return nil, err
	}
	return n.Look(cmd.Context())
}

// complete offers the VFs that there are.
func (o *options) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	status, err := look(cmd, o)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var all []string
	for _, pf := range status.PFs {
		for _, v := range pf.VFs {
			all = append(all, v.Address+"\t"+string(v.State)+" "+v.Resource)
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}
