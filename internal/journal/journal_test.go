package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type rec struct {
	Name string
	N    int
}

func TestWriteReadRemove(t *testing.T) {
	for _, durable := range []bool{false, true} {
		s := Store{Dir: filepath.Join(t.TempDir(), "a", "b"), Version: 1, Durable: durable}
		var got rec
		if err := s.Read("k", &got); !errors.Is(err, ErrNotExist) {
			t.Fatalf("read of nothing: %v, want ErrNotExist", err)
		}
		want := rec{"x", 2}
		if err := s.Write("k", rec{"old", 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Write("k", want); err != nil {
			t.Fatal(err)
		}
		if err := s.Read("k", &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		info, err := os.Stat(filepath.Join(s.Dir, "k.json"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
		}
		if err := errors.Join(s.Remove("k"), s.Remove("k")); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(s.Dir)
		if err != nil || len(entries) != 0 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	}
}

func TestAdvanceAndSync(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "a"), Version: 1}
	if err := s.Sync("k"); err != nil {
		t.Errorf("sync of nothing: %v", err)
	}
	if err := s.Advance("k", rec{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("advance of nothing: %v", err)
	}
	if err := s.Write("k", rec{"x", 1}); err != nil {
		t.Fatal(err)
	}
	durable := s
	durable.Durable = true
	if err := errors.Join(durable.Sync("k"), durable.Advance("k", rec{"x", 2}), durable.Advance("k", rec{N: 3})); err != nil {
		t.Fatal(err)
	}
	var got rec
	if err := s.Read("k", &got); err != nil || got != (rec{N: 3}) { // nothing of the older ones
		t.Errorf("got %v, %v", got, err)
	}
	if err := errors.Join(durable.Sync("../k"), durable.Advance("../k", got)); !errors.Is(err, ErrKey) {
		t.Errorf("got %v, want ErrKey", err)
	}
}

// However often a record advances, its file stays small, and the last one counts.
func TestAdvanceIsBounded(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	if err := s.Write("k", rec{}); err != nil {
		t.Fatal(err)
	}
	last := rec{Name: strings.Repeat("x", maxAdvanced/10)}
	for last.N = range 25 {
		if err := s.Advance("k", last); err != nil {
			t.Fatal(err)
		}
	}
	var got rec
	if err := s.Read("k", &got); err != nil || got != last {
		t.Errorf("got %d, %v", got.N, err)
	}
	if info, err := os.Stat(s.path("k")); err != nil || info.Size() > maxAdvanced {
		t.Errorf("its file has %d bytes, %v", info.Size(), err)
	}
}

// Every truncation of a record is corrupt, never another record. One that has advanced is the older one, which says that it is.
func TestTruncated(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	older := rec{"x", 2}
	if err := s.Write("k", older); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(s.path("k"))
	if err == nil {
		err = s.Advance("k", rec{"y", 3})
	}
	if err != nil {
		t.Fatal(err)
	}
	path := s.path("k")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		var got rec
		err := s.Read("k", &got)
		switch beyond := n - int(first.Size()); {
		case beyond < 0:
			if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTorn) || got != (rec{}) {
				t.Errorf("%d of %d bytes: %v, %v, want ErrCorrupt", n, len(whole), got, err)
			}
		case beyond <= 1: // nothing behind it, or the newline
			if err != nil || got != older {
				t.Errorf("%d of %d bytes: %v, %v, want the older one", n, len(whole), got, err)
			}
		default:
			if !errors.Is(err, ErrTorn) || got != older {
				t.Errorf("%d of %d bytes: %v, %v, want the older one and ErrTorn", n, len(whole), got, err)
			}
		}
	}
}

// Whatever stands behind a whole record, that is read; but nothing of what a newer version of this program has written.
func TestWhatStandsBehindARecord(t *testing.T) {
	for behind, want := range map[string]struct {
		n   int
		err error
	}{
		"":                                   {1, nil},
		" \n":                                {1, nil},
		`{"version":1,"record":{"N":2}}`:     {2, nil},
		`{"version":1,"record":{"N":2}} {}`:  {2, ErrTorn},
		`{}`:                                 {1, ErrTorn},
		`null`:                               {1, ErrTorn},
		`0`:                                  {1, ErrTorn},
		`{"version":1,"record":null}`:        {1, ErrTorn},
		`{"version":"1","record":{"N":2}}`:   {1, ErrTorn},
		`somebody else's bytes`:              {1, ErrTorn},
		`{"version":2,"record":{"N":2}}`:     {0, ErrVersion},
		`{"version":2,"record":{"N":2}} tor`: {0, ErrVersion},
	} {
		var got rec
		err := (Store{Version: 1}).Parse("k", []byte(`{"version":1,"record":{"N":1}}`+behind), &got)
		if got.N != want.n || !errors.Is(err, want.err) || (err == nil) != (want.err == nil) {
			t.Errorf("with %q behind it: %+v, %v; want %v", behind, got, err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	tests := map[string]struct {
		content string
		want    error
	}{
		"another version": {`{"version":2,"record":{}}`, ErrVersion},
		"no version":      {`{"record":{}}`, ErrVersion},
		"no record":       {`{"version":1}`, ErrCorrupt},
		"null record":     {`{"version":1,"record":null}`, ErrCorrupt},
		"another shape":   {`{"version":1,"record":{"N":"x"}}`, ErrCorrupt},
		"not JSON":        {"net1", ErrCorrupt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := Store{Dir: t.TempDir(), Version: 1}
			if err := os.WriteFile(filepath.Join(s.Dir, "k.json"), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Read("k", &rec{}); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// A record that cannot be read stays until its successor is there, and is kept aside; of many the first and the newest.
func TestPreserve(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	for i := range 12 {
		content := []byte{'x', byte('a' + i)}
		if err := os.WriteFile(filepath.Join(s.Dir, "k.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		aside, err := s.Preserve("k")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Read("k", &rec{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("killed here: %v, want ErrCorrupt", err)
		}
		if err := s.Write("k", rec{"new", i}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(aside); err != nil || string(got) != string(content) {
			t.Errorf("aside: %q, %v; want %q", got, err, content)
		}
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 1+9 {
		t.Errorf("%d files: %v, %v; want the record and nine", len(entries), entries, err)
	}
}

// Records of many keys that are set aside: the newest stay, and no record is taken for one of them.
func TestAsideIsBounded(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	const name = "a.corrupt-1" // a key like any
	if err := s.Write(name, rec{}); err != nil {
		t.Fatal(err)
	}
	for i := range MaxAside + 5 {
		key := fmt.Sprintf("k%d", i)
		// The longer ago a record was written, the later it is set aside here.
		written := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := errors.Join(s.Write(key, rec{}), os.Chtimes(s.path(key), written, written)); err != nil {
			t.Fatal(err)
		}
		path, err := s.SetAside(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("what was just set aside: %v", err)
		}
	}
	var want []string
	for i := range MaxAside {
		want = append(want, filepath.Join(s.Dir, fmt.Sprintf("k%d.corrupt-1", i+5)))
	}
	got, err := filepath.Glob(filepath.Join(s.Dir, "k*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if keys, err := s.Keys(); err != nil || !slices.Equal(keys, []string{name}) {
		t.Errorf("keys: %v, %v", keys, err)
	}
}

func TestKeys(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	for _, key := range []string{"0000:02:10.0", "b", "b-2"} {
		if err := s.Write(key, rec{}); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := s.Lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if err := s.Write("c", rec{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetAside("c"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"0000:02:10.0", "b", "b-2"}, got); d != "" {
		t.Error(d)
	}
	for _, killed := range []string{".half.tmp", "locked.lock", ".locked.tmp", ".lock", "stranger"} {
		if err := os.WriteFile(filepath.Join(s.Dir, killed), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = s.Traces(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"0000:02:10.0", "b", "b-2", "half", "locked"}, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../a", "-a", "a\x00", "a.json", "a.lock", "é"} {
		if err := s.Write(bad, rec{}); !errors.Is(err, ErrKey) {
			t.Errorf("key %q: %v, want ErrKey", bad, err)
		}
	}
}

func TestLockExcludes(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	first, err := s.Lock(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lock(done, "k"); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v, want ErrLocked", err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := s.Lock(t.Context(), "k")
		if err == nil {
			err = second.Unlock()
		}
		got <- err
	}()
	// The waiter must take the lock of the new file, not of the one that the first holder removes under it.
	if err := first.UnlockAndRemove(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-got:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the waiter never got the lock")
	}
}

// A child that outlives its parent must not keep the parent's lock.
func TestLockIsNotInherited(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	lock, err := s.Lock(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	again, err := s.Lock(ctx, "k")
	if err != nil {
		t.Fatalf("with a child running: %v", err)
	}
	_ = again.Unlock()
}

// What could not be read again is not written.
func TestWriteRefusesWhatReadDoes(t *testing.T) {
	s := Store{Dir: t.TempDir(), Version: 1}
	if err := s.Write("k", rec{"kept", 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write("k", rec{strings.Repeat("x", maxRecord), 2}); err == nil {
		t.Error("it is taken")
	}
	var got rec
	if err := s.Read("k", &got); err != nil || got != (rec{"kept", 1}) {
		t.Errorf("then there is %v, %v", got, err)
	}
}
