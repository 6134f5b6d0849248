package main

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bi, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this binary holds no build information")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "viaduct %s, %s\n", bi.Main.Version, bi.GoVersion)
			return nil
		},
	}
}
