package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The test binary is itself a program of this project, so copies of it serve as plugins. With this set, one only
// waits for its stdin to end.
const waitEnv = "VIADUCT_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(waitEnv) != "" {
		fmt.Println("running")
		os.Stdin.Read(make([]byte, 1)) //nolint:errcheck // it ends either way
		return
	}
	os.Exit(m.Run())
}

const foreign = "#!/bin/sh\necho another project's plugin\n"

// ours returns a program of this project; another version of it is the same with something appended.
func ours(t *testing.T, version string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "sriov-cni"), string(program)+version)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func list(t *testing.T, dir Folder) []string {
	t.Helper()
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestInstallAndUninstall(t *testing.T) {
	v1, v2 := ours(t, ""), ours(t, "2")
	tests := map[string]struct {
		before  string // the plugin that is there, none if empty
		saved   string // what an earlier install saved, nothing if empty
		steps   []string
		want    []Outcome
		plugin  string // what is there afterwards
		entries []string
	}{
		"into an empty folder": {
			steps: []string{v1}, want: []Outcome{Installed}, plugin: read(t, v1), entries: []string{"sriov"},
		},
		"twice": {
			steps: []string{v1, v1}, want: []Outcome{Installed, Unchanged}, plugin: read(t, v1), entries: []string{"sriov"},
		},
		"another version": {
			steps: []string{v1, v2}, want: []Outcome{Installed, Upgraded}, plugin: read(t, v2), entries: []string{"sriov"},
		},
		"over another project's": {
			before: foreign,
			steps:  []string{v1, v2}, want: []Outcome{Superseded, Upgraded}, plugin: read(t, v2), entries: []string{"sriov", "sriov.viaduct-saved"},
		},
		"over another project's that came back": {
			before: foreign, saved: "#!/bin/sh\necho an older one\n",
			steps: []string{v1, ""}, want: []Outcome{Superseded, Restored}, plugin: foreign, entries: []string{"sriov"},
		},
		"and out": {
			steps: []string{v1, "", ""}, want: []Outcome{Installed, Removed, Absent},
		},
		"and out, with another project's before": {
			before: foreign,
			steps:  []string{v1, "", ""}, want: []Outcome{Superseded, Restored, LeftAlone}, plugin: foreign, entries: []string{"sriov"},
		},
		"and out, with another project's put over it": {
			before: foreign, saved: "#!/bin/sh\necho an older one\n",
			steps: []string{"", ""}, want: []Outcome{LeftAlone, LeftAlone}, plugin: foreign, entries: []string{"sriov"},
		},
		"and out, with ours gone already": {
			saved: foreign,
			steps: []string{"", ""}, want: []Outcome{Restored, LeftAlone}, plugin: foreign, entries: []string{"sriov"},
		},
		"out what is another project's": {
			before: foreign,
			steps:  []string{""}, want: []Outcome{LeftAlone}, plugin: foreign, entries: []string{"sriov"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := Folder(t.TempDir())
			if tt.before != "" {
				write(t, dir.plugin("sriov"), tt.before)
			}
			if tt.saved != "" {
				write(t, dir.saved("sriov"), tt.saved)
			}
			var got []Outcome
			for _, source := range tt.steps {
				var outcome Outcome
				var err error
				if source == "" {
					outcome, err = dir.Uninstall(t.Context(), "sriov")
				} else {
					outcome, err = dir.Install(t.Context(), "sriov", source)
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, outcome)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tt.entries, list(t, dir)); d != "" {
				t.Errorf("in the folder: %s", d)
			}
			if tt.plugin != "" && read(t, dir.plugin("sriov")) != tt.plugin {
				t.Error("the plugin is another file than expected")
			}
		})
	}
}

// What somebody has half copied over ours is not worth what was there before.
func TestUninstallKeepsTheOnlyWholePlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := read(t, self)
	for name, half := range map[string]string{"half a program": program[:len(program)/2], "nothing": "", "a text": "sriov\n"} {
		dir := Folder(t.TempDir())
		write(t, dir.plugin("sriov"), half)
		write(t, dir.saved("sriov"), foreign)
		if outcome, err := dir.Uninstall(t.Context(), "sriov"); err == nil || !strings.Contains(err.Error(), dir.saved("sriov")) {
			t.Errorf("%s: %v, %v", name, outcome, err)
		}
		if read(t, dir.saved("sriov")) != foreign {
			t.Errorf("%s: what was there before is another file", name)
		}
	}
}

// A plugin that runs is replaced, and goes on.
func TestInstallWhileItRuns(t *testing.T) {
	dir := Folder(t.TempDir())
	if _, err := dir.Install(t.Context(), "sriov", ours(t, "")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), dir.plugin("sriov"))
	cmd.Env = append(os.Environ(), waitEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("running\n"))
	if _, err := stdout.Read(line); err != nil || string(line) != "running\n" {
		t.Fatalf("the plugin says %q, %v", line, err)
	}
	// The kernel refuses what install must not do.
	if f, err := os.OpenFile(dir.plugin("sriov"), os.O_WRONLY, 0); err == nil {
		f.Close()
		t.Error("a running program can be written to here: this test shows nothing")
	}
	outcome, err := dir.Install(t.Context(), "sriov", ours(t, "2"))
	if err != nil || outcome != Upgraded {
		t.Errorf("%v, %v; want %v", outcome, err, Upgraded)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the replaced program: %v", err)
	}
}

// While plugins are installed again and again, from two sides, there is always a whole one to start.
func TestAlwaysAWholePlugin(t *testing.T) {
	dir := Folder(t.TempDir())
	versions := []string{ours(t, ""), ours(t, "2")}
	if _, err := dir.Install(t.Context(), "sriov", versions[0]); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, v := range versions {
		wg.Go(func() {
			for range 8 {
				if _, err := dir.Install(t.Context(), "sriov", v); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for looks := 0; ; looks++ {
		select {
		case <-done:
			if d := cmp.Diff([]string{"sriov"}, list(t, dir)); d != "" {
				t.Error(d)
			}
			if looks == 0 {
				t.Error("never looked")
			}
			return
		default:
		}
		info, err := os.Stat(dir.plugin("sriov"))
		if err != nil {
			t.Fatal(err)
		}
		if whole, _ := os.Stat(versions[0]); info.Size() < whole.Size() || info.Mode() != 0o755 {
			t.Fatalf("found %d bytes, mode %v", info.Size(), info.Mode())
		}
	}
}

// What a killed install left does not stop the next.
func TestInstallAfterAKill(t *testing.T) {
	dir := Folder(t.TempDir())
	if err := os.Symlink("/etc/passwd", dir.temp("sriov")); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Install(t.Context(), "sriov", ours(t, "")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"sriov"}, list(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestRefusals(t *testing.T) {
	v1 := ours(t, "")
	script := write(t, filepath.Join(t.TempDir(), "script"), foreign)
	tests := map[string]struct {
		name, source string
		want         error
	}{
		"no such plugin":     {"../sriov", v1, ErrUnknown},
		"no name":            {"", v1, ErrUnknown},
		"not ours":           {"sriov", script, ErrNotOurs},
		"no source":          {"sriov", v1 + ".missing", fs.ErrNotExist},
		"a folder as source": {"sriov", t.TempDir(), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := Folder(t.TempDir())
			_, err := dir.Install(t.Context(), tt.name, tt.source)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if left := list(t, dir); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestWaitsForAnotherInstall(t *testing.T) {
	dir := Folder(t.TempDir())
	err := dir.locked(t.Context(), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := dir.Install(ctx, "sriov", ours(t, ""))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want it to wait", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if left := list(t, dir); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// Our containers are root without a capability. A folder that is another user's, or that nobody may write, is then closed to them,
// and the error says what to do.
func TestSaysWhatToDoAboutAForeignFolder(t *testing.T) {
	dir, source := Folder(t.TempDir()), ours(t, "")
	want := fmt.Sprintf("permission denied; the folder is of user %d, with mode 0555: on the node give it to root, or deploy with conf/overlays/dac-override", os.Geteuid())
	if os.Geteuid() == 0 {
		if err := os.Chown(string(dir), 997, 0); err != nil {
			t.Fatal(err)
		}
		want = strings.Replace(want, "user 0", "user 997", 1)
	}
	if err := os.Chmod(string(dir), 0o555); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // to the test's end: a thread without capabilities is good for nothing else
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Install(t.Context(), "sriov", source); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
