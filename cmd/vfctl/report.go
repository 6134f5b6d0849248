package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/operator"
)

func newReport(o *options) *cobra.Command {
	var to string
	var noLogs bool
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Collect what somebody needs to help, and nothing secret, into one file",
		Long: `Report writes a tar.gz with what vfctl list shows, the devices, records, journals, configuration, versions, recent
logs and the kernel's messages about these devices. README.txt in it says what is where. vfctl --root node list, where
it was unpacked, shows the node as it was.

Nothing secret goes into it: of network definitions and of the device plugin's configuration only the values of keys
that are known to be harmless are written, of others only that they are there. From logs, what looks like a password,
token or key is taken out; --no-logs leaves them out altogether.`,
		Example: `  vfctl report                        viaduct-report-NODE-TIME.tar.gz in this folder
  vfctl report --to /tmp/case7        a folder instead
  vfctl report --to - | ssh help@example.org 'cat > node7.tar.gz'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := o.find(cmd)
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			name := "viaduct-report-" + n.NodeName + "-" + now.Format("20060102T150405Z")
			b, where, err := openBundle(cmd.OutOrStdout(), to, name, now)
			if err != nil {
				return err
			}
			if err := errors.Join(n.Report(cmd.Context(), b, buildVersion(), !noLogs), b.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "the report is in %s\n", where)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "a file that ends in .tar.gz, a folder that is not there yet, or - for standard output")
	cmd.Flags().StringVar(&o.node.LogDir, "log-dir", "", "the folder of sriov's log files (default: as /etc/viaduct/sriov.json says, else /var/log/viaduct)")
	cmd.Flags().StringVar(&o.node.Namespace, "namespace", "viaduct", "the namespace of the device plugin's and the meta-agent's pods, whose logs are taken")
	cmd.Flags().StringVar(&o.node.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "the runtime's folder of network configurations")
	cmd.Flags().BoolVar(&noLogs, "no-logs", false, "leave logs and the kernel's messages out")
	return cmd
}

func openBundle(stdout io.Writer, to, name string, now time.Time) (b operator.Bundle, where string, err error) {
	switch {
	case to == "-":
		return operator.NewArchive(stdout, name, now), "standard output", nil
	case to == "":
		to = name + ".tar.gz"
	case !strings.HasSuffix(to, ".tar.gz") && !strings.HasSuffix(to, ".tgz"):
		b, err = operator.NewFolder(to)
		return b, to, err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("make the report: %w", err)
	}
	return &file{operator.NewArchive(f, name, now), f}, to, nil
}

// file is an archive in a file of its own.
type file struct {
	operator.Bundle
	f *os.File
}

func (x *file) Close() error { return errors.Join(x.Bundle.Close(), x.f.Close()) }
