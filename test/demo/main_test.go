package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// As the demo itself, the test's binary runs main.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_DEMO") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A demo that fails ends with a line that says in which step, and with a status that says so to make.
func TestFailureIsTold(t *testing.T) {
	bin := t.TempDir()
	// A cluster with a node that is ready, and cannot be shown.
	kubectl := "#!/bin/sh\ncase \"$*\" in *jsonpath*) echo True ;; *) echo 'no nodes today' >&2; exit 3 ;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "BE_THE_DEMO=1", "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit status 1", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "✗ FAILED after ") || !strings.HasSuffix(last, " in step 1, A node with SR-IOV NICs: kubectl get nodes -o wide: exit status 3") {
		t.Errorf("its last line is %q", last)
	}
}

func TestVerdict(t *testing.T) {
	d := demo{out: t.Output(), start: time.Now()}
	d.heading("First")
	d.heading("Pods on VLAN %d", vlan)
	want := "✗ FAILED after 7s in step 2, Pods on VLAN 100: two words on two lines"
	if got := d.verdict(7*time.Second, errors.New("two words\n  on two lines\n")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := d.verdict(7*time.Second, nil); !strings.HasPrefix(got, "✓ Two pods") {
		t.Errorf("got %q", got)
	}
}
