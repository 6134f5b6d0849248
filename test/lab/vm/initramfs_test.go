package vm

import (
	"errors"
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
