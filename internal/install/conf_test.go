package install

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRemoveConf(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	write(t, filepath.Join(dir, "10-default.conflist"), "{}")
	write(t, filepath.Join(dir, Conf), "{}")

	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RemoveConf(t.Context(), dir, socket); !errors.Is(err, ErrAgentRuns) {
		t.Errorf("with a running agent: %v, want ErrAgentRuns", err)
	}
	if _, err := os.Stat(filepath.Join(dir, Conf)); err != nil {
		t.Errorf("with a running agent: %v, want it untouched", err)
	}
	l.Close()

	var got []Outcome
	for range 2 {
		outcome, err := RemoveConf(t.Context(), dir, socket)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, outcome)
	}
	if d := cmp.Diff([]Outcome{Removed, Absent}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"10-default.conflist"}, list(t, Folder(dir))); d != "" {
		t.Error(d)
	}
}
