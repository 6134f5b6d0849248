//go:build labhost

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The kernel's own reader is what counts; busybox's is at hand here.
func TestCPIO(t *testing.T) {
	if err := Prepare(t.Context(), small(t)); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := &cpioWriter{w: &buf}
	w.add("job", cpioDir, nil)
	files := map[string]string{"job/init": "/a path", "job/odd": "x", "job/empty": "", "job/script": "#!/bin/sh\n"}
	for _, name := range []string{"job/init", "job/odd", "job/empty"} {
		w.add(name, cpioFile, []byte(files[name]))
	}
	w.add("job/script", cpioExec, []byte(files["job/script"]))
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%512 != 0 {
		t.Errorf("%d bytes are no multiple of 512", buf.Len())
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), findProgram("busybox"), "cpio", "-i")
	cmd.Dir, cmd.Stdin = dir, &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	got := map[string]string{}
	for name := range files {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(raw)
	}
	if d := cmp.Diff(files, got); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(filepath.Join(dir, "job/script")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("script has mode %v, error %v", info.Mode(), err)
	}
}
