package netns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fresh binds a new network namespace to a file, as runtimes do. The test has to be root.
func fresh(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func open(t *testing.T, path string) *Netns {
	t.Helper()
	n, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestID(t *testing.T) {
	path := fresh(t)
	own, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	ids := map[string]ID{}
	for name, n := range map[string]*Netns{"own": own, "a": open(t, path), "a again": open(t, path), "b": open(t, fresh(t))} {
		if ids[name], err = n.ID(); err != nil {
			t.Fatal(err)
		}
		if ids[name].Cookie == 0 || ids[name].Inode == 0 {
			t.Errorf("%s: %+v", name, ids[name])
		}
	}
	if ids["a"] != ids["a again"] {
		t.Errorf("one namespace, two identities: %v, %v", ids["a"], ids["a again"])
	}
	if ids["a"] == ids["b"] || ids["a"] == ids["own"] {
		t.Errorf("two namespaces, one identity: %v", ids)
	}
}

func TestOthers(t *testing.T) {
	a, b := fresh(t), fresh(t)
	paths, err := Others("/")
	if err != nil {
		t.Fatal(err)
	}
	own, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	times := map[ID]int{}
	for _, path := range paths {
		if n, err := Open(path); err == nil { // others come and go
			id, err := n.ID()
			if err != nil {
				t.Fatal(err)
			}
			times[id]++
			_ = n.Close()
		}
	}
	for path, want := range map[string]int{a: 1, b: 1, own.Path(): 0} {
		id, err := open(t, path).ID()
		if err != nil {
			t.Fatal(err)
		}
		if times[id] != want {
			t.Errorf("%s is listed %d times, want %d, in %v", path, times[id], want, paths)
		}
	}
}

func TestGone(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unmounted := fresh(t)
	if err := unix.Unmount(unmounted, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"missing": plain + "x", "a plain file": plain, "unmounted": unmounted, "no path": ""} {
		if _, err := Open(path); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want ErrGone", name, err)
		}
	}
}

// Do leaves no thread behind in the namespace: whatever runs next is where it was.
func TestDoLeavesNoThread(t *testing.T) {
	n := open(t, fresh(t))
	namespace := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	home := namespace()
	wrong := errors.New("as told")
	for range 200 {
		var inside string
		if err := n.Do(func() error { inside = namespace(); return wrong }); !errors.Is(err, wrong) {
			t.Fatalf("got %v, want the function's error", err)
		}
		if inside == home {
			t.Fatal("it ran outside")
		}
		if link, err := os.Readlink("/proc/self/ns/net"); err != nil || link != home {
			t.Fatalf("the main thread is in %s, at home is %s (%v)", link, home, err)
		}
		done := make(chan string)
		for range 8 {
			go func() { done <- namespace() }()
		}
		for range 8 {
			if got := <-done; got != home {
				t.Fatalf("a goroutine ran in %s, at home is %s", got, home)
			}
		}
	}
}

// What was closed is not closed again: the number of its socket may be another file's by then.
func TestCloseTwice(t *testing.T) {
	n, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	was, err := n.Route()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// A stranger gets the number.
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if null != was {
		if err := unix.Dup3(null, was, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if err := unix.Close(was); err != nil {
		t.Errorf("the stranger's file: %v", err)
	}
}

// What a runtime never leaves, somebody may: it is no namespace that has gone, and nobody is waited for.
func TestOpenOfAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, filepath.Dir(path), "/dev/null"} {
		if n, err := Open(path); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, %v", path, n, err)
		}
	}
}
