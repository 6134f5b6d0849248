package main

import (
	"io"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What DaemonSets of the older device plugin pass, and what we take ourselves.
func TestLogLevels(t *testing.T) {
	none := func(string) string { return "" }
	for level, want := range map[string]slog.Level{
		"10": slog.LevelInfo, "0": slog.LevelInfo, "warning": slog.LevelWarn, "panic": slog.LevelError, "debug": slog.LevelDebug,
		"INFO": slog.LevelInfo,
	} {
		o, err := parseOptions([]string{"--log-dir=sriovdp", "--log-level=" + level}, none, io.Discard)
		if err != nil || o.level != want {
			t.Errorf("--log-level=%s: %v, %v, want %v", level, o, err, want)
		}
	}
	for _, level := range []string{"loud", "-1", ""} {
		if _, err := parseOptions([]string{"--log-level=" + level}, none, io.Discard); err == nil {
			t.Errorf("--log-level=%s is taken", level)
		}
	}
}

func TestDryRunTakesTheFlagsOfTheDaemonSet(t *testing.T) {
	tests := map[string]struct {
		cmdline string
		args    []string
		want    []string
	}{
		"in the container": {
			"/device-plugin\x00--resource-prefix=example.org\x00-log-dir\x00\x00",
			[]string{"-dry-run", "-o", "json"},
			[]string{"--resource-prefix=example.org", "-log-dir", "", "-dry-run", "-o", "json"},
		},
		"no flags there":  {"/device-plugin\x00", []string{"--dry-run"}, []string{"--dry-run"}},
		"on a node":       {"/sbin/init\x00splash\x00", []string{"--dry-run"}, []string{"--dry-run"}},
		"nothing to read": {"", []string{"--dry-run"}, []string{"--dry-run"}},
		"no dry run":      {"/device-plugin\x00-use-cdi\x00", []string{"-log-level=debug"}, []string{"-log-level=debug"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, likeRunning(test.args, []byte(test.cmdline))); diff != "" {
				t.Errorf("flags (-want +got):\n%s", diff)
			}
		})
	}
}
