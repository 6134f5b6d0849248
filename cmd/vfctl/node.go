package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
	"github.com/viaduct-sriov/viaduct/internal/operator"
)

func newNode(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Put the CNI plugins on this node, or take them off",
		Args:  cobra.NoArgs,
		RunE:  help,
	}
	cmd.AddCommand(newInstall(), newUninstall(o), newCheck(o))
	return cmd
}

func newInstall() *cobra.Command {
	var binDir, from string
	cmd := &cobra.Command{
		Use:   "install PLUGIN...",
		Short: "Install CNI plugins (sriov, meta-cni), and vfctl, into this node's plugin folder",
		Long: `Install copies CNI plugins into the folder where the container runtime looks for them.

  sriov      puts the VF that a pod was given into the pod; goes with the device plugin
  meta-cni   joins the default network and a pod's further networks; goes with the meta-agent
  vfctl      is no plugin, but this program, for who has to look after the node

At any moment the folder holds a whole plugin: the new one is renamed over the old, also while that runs.
A plugin of another project by the same name is kept as NAME.viaduct-saved. Doing it twice does no harm.

The init containers of the two DaemonSets run this. The node's network configuration is not touched: the
meta-agent writes it when it is ready to serve.`,
		Example: `  vfctl node install sriov vfctl
  vfctl node install --cni-bin-dir /var/lib/cni/bin sriov meta-cni`,
		Args:      pluginArgs,
		ValidArgs: slices.Sorted(maps.Keys(install.Plugins)),
		RunE: func(cmd *cobra.Command, names []string) error {
			if from == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find the plugins beside vfctl (or name their folder with --from): %w", err)
				}
				from = filepath.Dir(self)
			}
			for _, name := range names {
				outcome, err := install.Folder(binDir).Install(cmd.Context(), name, filepath.Join(from, install.Plugins[name]))
				if err != nil {
					return err
				}
				report(cmd, filepath.Join(binDir, name), outcome)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&binDir, "cni-bin-dir", "/opt/cni/bin", "the runtime's folder of CNI plugins")
	cmd.Flags().StringVar(&from, "from", "", "the folder that holds the programs to install (default: that of vfctl)")
	return cmd
}

func newUninstall(o *options) *cobra.Command {
	var binDir, confDir, socket string
	var wait time.Duration
	var force bool
	cmd := &cobra.Command{
		Use:   "uninstall PLUGIN...",
		Short: "Take CNI plugins off this node, and leave it working",
		Long: `Uninstall removes what install put there. If install saved a plugin of another project, that comes back.
A plugin that is not ours is left alone.

For meta-cni it first removes ` + install.Conf + ` from the runtime's network configurations, so that the
runtime goes back to the default network. It refuses while the meta-agent runs, which would put it back.

While a pod has a VF, or networks beside the default one, nothing is removed: only these plugins can take back what
they attached. Delete or drain those pods; --wait waits for the last one.

It fails if none of the plugins is where it looks: on k3s and some others the runtime's folders are elsewhere than the
flags say by default, and a runtime that still calls meta-cni starts no pod once that is gone.`,
		Example: `  kubectl -n viaduct delete daemonset device-plugin meta-agent
  vfctl node uninstall --wait 10m sriov meta-cni vfctl`,
		Args:      pluginArgs,
		ValidArgs: slices.Sorted(maps.Keys(install.Plugins)),
		RunE: func(cmd *cobra.Command, names []string) error {
			o.node.CNIBinDir, o.node.CNIConfDir = binDir, confDir
			n, err := o.find(cmd) // of now: the configuration says where the journals are, and goes
			if err != nil && !force {
				return err
			}
			if !force {
				if err := detached(cmd, n, wait); err != nil {
					return err
				}
				if err := rightFolders(names, binDir, confDir); err != nil {
					return err
				}
			}
			if slices.Contains(names, "meta-cni") {
				outcome, err := install.RemoveConf(cmd.Context(), confDir, socket)
				if err != nil {
					return err
				}
				report(cmd, filepath.Join(confDir, install.Conf), outcome)
				if !force {
					if err := stillDetached(n); err != nil {
						return err
					}
				}
			}
			return uninstall(cmd, binDir, names)
		},
	}
	cmd.Flags().StringVar(&binDir, "cni-bin-dir", "/opt/cni/bin", "the runtime's folder of CNI plugins")
	cmd.Flags().StringVar(&confDir, "cni-conf-dir", "/etc/cni/net.d", "the runtime's folder of network configurations")
	cmd.Flags().StringVar(&socket, "agent-socket", agentapi.DefaultSocket, "where the meta-agent listens if it runs")
	cmd.Flags().DurationVar(&wait, "wait", 0, "how long to wait for the last pod that still has something of ours")
	cmd.Flags().BoolVar(&force, "force", false, "also if pods still have something: their VFs and addresses stay as they are")
	return cmd
}

// elsewhere is what may be wrong if nothing is found.
const elsewhere = "the runtime's folders are elsewhere on k3s and some others: name them by --cni-bin-dir and --cni-conf-dir, as docs/troubleshooting.md says"

// rightFolders fails if binDir has none of the plugins: that they are gone already is rarer than a wrong folder. It also fails if
// meta-cni is to be removed, and confDir seems not to be where the runtime has its configurations: there is none at all. A runtime
// that is told to call meta-cni starts no pod once that is gone.
func rightFolders(names []string, binDir, confDir string) error {
	if !slices.ContainsFunc(names, install.Folder(binDir).Has) {
		return fmt.Errorf("none of %s is in %s: if they are not gone already, %s", strings.Join(names, ", "), binDir, elsewhere)
	}
	if !slices.Contains(names, "meta-cni") || install.Folder(binDir).Whose("meta-cni") != install.Ours {
		return nil
	}
	paths, err := ondisk.List(confDir)
	if err != nil {
		return fmt.Errorf("look for the runtime's configurations: %w", err)
	}
	if len(paths) == 0 {
		return fmt.Errorf("nothing is removed: %s has neither %s nor any other network configuration; %s; if it is that folder, --force: no pod has anything",
			confDir, install.Conf, elsewhere)
	}
	return nil
}

// uninstall removes the plugins; one that cannot be removed does not keep the others.
func uninstall(cmd *cobra.Command, binDir string, names []string) error {
	var errs []error
	for _, name := range names {
		outcome, err := install.Folder(binDir).Uninstall(cmd.Context(), name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		report(cmd, filepath.Join(binDir, name), outcome)
	}
	return errors.Join(errs...)
}

// detached returns when nothing on the node is attached by our plugins any more; its error says what is.
func detached(cmd *cobra.Command, n *operator.Node, wait time.Duration) error {
	said := ""
	for until := time.Now().Add(wait); ; {
		left, err := n.Attached()
		if err != nil || len(left) == 0 {
			return err
		}
		if !time.Now().Before(until) {
			return fmt.Errorf("nothing is removed, for only these plugins can take back what they attached:\n  %s\n"+
				"delete those pods, or drain the node (see --wait); what no pod has any more: vfctl gc", strings.Join(left, "\n  "))
		}
		if now := strings.Join(left, "\n  "); now != said {
			said = now
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting for these to go:\n  %s\n", now)
		}
		select {
		case <-cmd.Context().Done():
			return fmt.Errorf("wait for the last pod: %w", context.Cause(cmd.Context()))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// stillDetached looks again once the runtime does not call meta-cni for new pods any more: one that was starting may have got
// something since detached looked.
func stillDetached(n *operator.Node) error {
	left, err := n.Attached()
	if err != nil || len(left) == 0 {
		return err
	}
	return fmt.Errorf("the plugins stay, for pods that were starting have got something while %s was removed:\n  %s\n"+
		"the runtime does not ask meta-cni for their DEL any more: delete those pods, then vfctl gc, then this again", install.Conf, strings.Join(left, "\n  "))
}

func newCheck(o *options) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say who has this node: our plugins, or Multus, sriov-cni and their device plugin",
		Long: `Check looks at what matters while a node goes over from Multus, sriov-cni and the SR-IOV network device plugin to
this project, or back: whose plugins are installed, which network configuration the runtime takes, which programs of
the others still run, and what is still attached by whom. Nothing is changed. Below that it says what to do next.

A line with ! is to be seen to; the exit status is then 1. What the others attached is no fault: it is torn down by our
plugins when its pods end.`,
		Example: `  vfctl node check
  vfctl node check -o json | jq '.[] | select(.ok | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := o.find(cmd)
			if err != nil {
				return err
			}
			all, err := n.CheckTakeover()
			if err != nil {
				return err
			}
			if err := out.write(cmd.OutOrStdout(), all, operator.PrintFindings(all)); err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(f operator.Finding) bool { return !f.OK }) {
				return errors.New("this node is not ours alone: see the lines that begin with an exclamation mark")
			}
			return nil
		},
	}
	out.addTo(cmd)
	cmd.Flags().StringVar(&o.node.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "the runtime's folder of CNI plugins")
	cmd.Flags().StringVar(&o.node.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "the runtime's folder of network configurations")
	return cmd
}

// pluginArgs takes one or more names of plugins of ours.
func pluginArgs(_ *cobra.Command, args []string) error {
	known := slices.Sorted(maps.Keys(install.Plugins))
	if len(args) == 0 {
		return fmt.Errorf("name the plugins: one or more of %s", strings.Join(known, ", "))
	}
	for _, arg := range args {
		if !slices.Contains(known, arg) {
			return fmt.Errorf("there is no plugin %q: one or more of %s", arg, strings.Join(known, ", "))
		}
	}
	return nil
}

func report(cmd *cobra.Command, path string, outcome install.Outcome) {
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", path, outcome)
}
