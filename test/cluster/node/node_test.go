package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/test/cluster/process"
)

// The command's exit status is the node's, and whatever fails, the report has the daemons' last words.
func TestHowACommandEnds(t *testing.T) {
	broken := errors.New("containerd ended by itself")
	for name, tt := range map[string]struct {
		command string
		start   error
		exit    int
		err     error
		report  bool
	}{
		"well":             {"exit 0", nil, 0, nil, false},
		"badly":            {"exit 42", nil, 42, nil, true},
		"not even started": {"exit 0", broken, 0, broken, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", os.Getenv("PATH")) // carry adds the cluster's programs to it
			group, err := process.New(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer group.Stop()
			if err := os.WriteFile(group.LogFile("kubelet"), []byte("no space left on the disk\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var report bytes.Buffer
			start := func(context.Context, *process.Group) error { return tt.start }
			exit, err := Config{Command: []string{"sh", "-c", tt.command}}.carry(t.Context(), group, start, &report)
			if exit != tt.exit || !errors.Is(err, tt.err) {
				t.Errorf("exit %d, error %v; want %d, %v", exit, err, tt.exit, tt.err)
			}
			if got := strings.Contains(report.String(), "=== kubelet\n  no space left on the disk\n"); got != tt.report {
				t.Errorf("the report: %q", report.String())
			}
		})
	}
}
