package vm

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRunFoldersAreSweptWhenTheirRunIsGone(t *testing.T) {
	cache := t.TempDir()
	alive, lock, err := makeRunFolder(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dead, deadLock, err := makeRunFolder(cache)
	if err != nil {
		t.Fatal(err)
	}
	young, youngLock, err := makeRunFolder(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{deadLock, youngLock} {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{alive, dead} {
		past := time.Now().Add(-2 * sweepAge)
		if err := os.Chtimes(dir, past, past); err != nil {
			t.Fatal(err)
		}
	}
	_, last, err := makeRunFolder(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	got := map[string]bool{}
	for name, dir := range map[string]string{"alive": alive, "dead": dead, "young": young} {
		_, err := os.Stat(filepath.Clean(dir))
		got[name] = err == nil
	}
	if d := cmp.Diff(map[string]bool{"alive": true, "dead": false, "young": true}, got); d != "" {
		t.Error(d)
	}
}
