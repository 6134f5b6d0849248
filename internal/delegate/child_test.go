package delegate

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// script is a program for this test.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTalk(t *testing.T) {
	large := bytes.Repeat([]byte("configuration "), 1<<16) // more than a pipe holds, both ways
	for name, tc := range map[string]struct {
		script         string
		config         []byte
		stdout, stderr []byte
		fails          string
	}{
		"both outputs":                   {"cat; echo note >&2", []byte("{}"), []byte("{}"), []byte("note\n"), ""},
		"nothing":                        {":", nil, nil, nil, ""},
		"more than pipes hold":           {"cat", large, large, nil, ""},
		"more than it reads":             {"head -c 3", large, []byte("con"), nil, ""},
		"fails":                          {"cat >&2; exit 3", []byte("why"), nil, []byte("why"), "exit status 3"},
		"is ended":                       {"echo part; kill -KILL $$", nil, []byte("part\n"), nil, "signal: killed"},
		"ends after it closed its pipes": {"exec <&- >&- 2>&-; sleep 0.1; exit 4", large, nil, nil, "exit status 4"},
	} {
		for kernel, pidfds := range map[string]bool{"": true, ", by a kernel without pidfds": false} {
			t.Run(name+kernel, func(t *testing.T) {
				before := openFiles(t)
				c, err := spawn(script(t, tc.script), os.Environ())
				if err != nil {
					t.Fatal(err)
				}
				if c.pidfd < 0 {
					t.Error("no pidfd")
				}
				if !pidfds {
					shut(&c.pidfd)
				}
				var stdout, stderr bytes.Buffer
				err = c.talk(tc.config, time.Now().Add(time.Minute), &stdout, &stderr)
				c.close()
				if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) {
					t.Errorf("got %v, want %q", err, tc.fails)
				}
				if !bytes.Equal(stdout.Bytes(), tc.stdout) || !bytes.Equal(stderr.Bytes(), tc.stderr) {
					t.Errorf("it printed %.80q and %.80q", stdout.Bytes(), stderr.Bytes())
				}
				if diff := cmp.Diff(before, openFiles(t)); diff != "" {
					t.Errorf("open files: -before +after:\n%s", diff)
				}
			})
		}
	}
}

// An installer copies a plugin in place: as long as it writes, the kernel starts nothing from that file. An ADD that comes
// meanwhile waits for the rest.
func TestAddWhileAPluginIsWritten(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(filepath.SplitList(n.Path)[1], "rec-a")
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	half := len(program) / 2
	if _, err := file.Write(program[:half]); err != nil {
		t.Fatal(err)
	}
	if _, err := spawn(path, nil); !errors.Is(err, unix.ETXTBSY) {
		t.Fatalf("start a program that is being written: %v", err)
	}
	done, asked := make(chan error, 1), make(chan struct{})
	go func() {
		_, failed := n.Add(t.Context(), n.sandbox("c1"), func(ctx context.Context) ([]network.Attachment, error) {
			close(asked)
			return n.attachments(), nil
		})
		done <- failed
	}()
	<-asked
	time.Sleep(100 * time.Millisecond) // it has tried by then, and does each 20 ms
	_, err = file.Write(program[half:])
	if err := errors.Join(err, file.Close(), <-done); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ADD rec-a eth0"}, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Error(err)
	}
}

func TestSpawnFails(t *testing.T) {
	before := openFiles(t)
	if _, err := spawn("/nonexistent/plugin", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, openFiles(t)); diff != "" {
		t.Errorf("open files: -before +after:\n%s", diff)
	}
}

// openFiles lists what this process has open but for the folder that it lists.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "/proc/") {
			out[e.Name()] = to
		}
	}
	return out
}
