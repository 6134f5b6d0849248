package main

import (
	"io"
	"log/slog"
	"testing"
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
