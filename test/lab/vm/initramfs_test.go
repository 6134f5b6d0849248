package vm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet-virtio.ko: kernel/net/9p/9pnet.ko.xz
`
	const builtin = "kernel/drivers/virtio/virtio_pci.ko\n"
	got, err := loadOrder([]string{"virtio_pci", "9pnet_virtio", "9p"}, dep, builtin)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"kernel/net/9p/9pnet.ko.xz", "kernel/net/9p/9pnet-virtio.ko", "kernel/fs/netfs/netfs.ko.xz", "kernel/fs/9p/9p.ko.xz",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := loadOrder([]string{"floppy"}, dep, builtin); err == nil || !strings.Contains(err.Error(), "floppy") {
		t.Errorf("a module that is nowhere: %v", err)
	}
}

// The kernel's own reader is what counts; busybox's is at hand here.
func TestCPIO(t *testing.T) {
	busybox := findProgram("busybox")
	if busybox == "" {
		t.Fatal("no busybox: run `lab prepare` first")
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
	cmd := exec.CommandContext(t.Context(), busybox, "cpio", "-i")
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

type fullDisk struct{ left int }

var errFull = errors.New("full")

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestCPIOKeepsTheFirstError(t *testing.T) {
	w := &cpioWriter{w: &fullDisk{200}}
	w.add("a", cpioFile, make([]byte, 300))
	if err := w.close(); !errors.Is(err, errFull) {
		t.Errorf("close returned %v", err)
	}
}
