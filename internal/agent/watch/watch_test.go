package watch

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Without a watch it goes on, and watches as soon as the kernel has one.
func TestNoWatchesLeft(t *testing.T) {
	dir := t.TempDir()
	f := &Folders{Log: slog.New(slog.DiscardHandler)}
	defer f.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0 // EMFILE, as when all instances are used up
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	f.Add(dir)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if f.Events() != nil || f.Errors() != nil {
		t.Fatal("it watches without a watch: the test tests nothing")
	}
	f.Add(filepath.Join(dir, "none"), dir)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-f.Events():
		if filepath.Base(e.Name) != "a" {
			t.Errorf("got %v", e)
		}
	case <-time.After(20 * time.Second):
		t.Error("no event")
	}
}
