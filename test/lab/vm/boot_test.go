//go:build labhost

// These tests start virtual machines themselves, so they run on the host: go test -tags labhost ./test/lab/...

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// small is a machine that boots fast, with what it says in the test's log.
func small(t *testing.T) Config {
	t.Helper()
	return Config{PFs: -1, NUMANodes: 1, MemoryMiB: 512, CPUs: 1, Stderr: t.Output(), Log: t.Logf}
}

type told struct {
	Exit           int
	Stdout, Stderr string
}

func in(t *testing.T, c Config, argv ...string) told {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	exit, err := Run(t.Context(), c, argv)
	if err != nil {
		t.Fatal(err)
	}
	return told{exit, stdout.String(), stderr.String()}
}

func TestCommandIsIntact(t *testing.T) {
	dir := t.TempDir()
	c := small(t)
	c.Dir, c.Env = dir, []string{`ODD=a 'b' "c" $d`}
	c.Stdin = bytes.NewReader(bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)) // 1 MiB
	got := in(t, c, "sh", "-c", `pwd; echo "$ODD"; printf '<%s>' "$@"; cksum; printf '\0\033[1m' >&2; exit 42`, "sh", "", "a b", "'\"$x\n", "ü")
	want := told{42, dir + "\na 'b' \"c\" $d\n<><a b><'\"$x\n><ü>" + cksum(t) + "\n", "\x00\x1b[1m"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func cksum(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "cksum")
	cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte("0123456789abcde\n"), 64<<10))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// covered builds a program with coverage, one of whose two statements runs.
func covered(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module covered\n\ngo 1.21\n",
		"main.go": "package main\n\nimport \"os\"\n\nfunc main() {\n\tif len(os.Args) > 1 {\n\t\tprintln(\"never\")\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-cover", "-o", "covered", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build -cover: %v: %s", err, out)
	}
	return filepath.Join(dir, "covered")
}

func TestWhatLasts(t *testing.T) {
	c := small(t)
	coverage := filepath.Join(t.TempDir(), "made", "now")
	t.Setenv("GOCOVERDIR", coverage)
	c.Persist, c.Artefacts = t.TempDir(), filepath.Join(t.TempDir(), "made", "now")
	c.Dir = t.TempDir()
	out := filepath.Join(c.Dir, "profile")
	// A background process that holds the output and the disk open must not keep the machine.
	script := "echo kept > /persist/file; echo back > /artefacts/file; echo lost > lost; echo prof > profile; " + covered(t) + "; cd /persist; sleep 1000 & exit 0"
	if got := in(t, c, "sh", "-c", script, "x", "-test.cpuprofile=profile"); got.Exit != 0 {
		t.Fatal(got)
	}
	for path, want := range map[string]string{filepath.Join(c.Artefacts, "file"): "back\n", out: "prof\n"} {
		if raw, err := os.ReadFile(path); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v; want %q", path, raw, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "lost")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the guest wrote to the host's root: %v", err)
	}
	said, err := exec.CommandContext(t.Context(), "go", "tool", "covdata", "percent", "-i="+coverage).CombinedOutput()
	if err != nil || !strings.Contains(string(said), "coverage: 50.0% of statements") {
		t.Errorf("the coverage that came back: %s, %v; want 50.0%%", said, err)
	}
	want := told{0, "kept\n", ""}
	if d := cmp.Diff(want, in(t, c, "cat", "/persist/file")); d != "" {
		t.Error(d)
	}
}

func TestEndings(t *testing.T) {
	tests := []struct {
		name, script string
		exit         int
		err          error
	}{
		{"killed", "kill -9 $$", 128 + 9, nil},
		{"panic", "echo c > /proc/sysrq-trigger; sleep 1000", 0, ErrDied},
		{"reset without a word", "echo b > /proc/sysrq-trigger; sleep 1000", 0, ErrDied},
		{"reboot", "busybox reboot -f; sleep 1000", 0, ErrDied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			exit, err := Run(t.Context(), small(t), []string{"sh", "-c", tt.script})
			if exit != tt.exit || !errors.Is(err, tt.err) {
				t.Errorf("exit %d, error %v; want %d, %v", exit, err, tt.exit, tt.err)
			}
		})
	}
	t.Run("no such command", func(t *testing.T) {
		if _, err := Run(t.Context(), small(t), []string{"/no/such"}); !errors.Is(err, ErrCommand) || !strings.Contains(err.Error(), "/no/such") {
			t.Errorf("error %v", err)
		}
	})
}

// upon calls f once when the text has been written to it.
type upon struct {
	text string
	f    func()
	once sync.Once
	buf  bytes.Buffer
}

func (u *upon) Write(p []byte) (int, error) {
	u.buf.Write(p)
	if strings.Contains(u.buf.String(), u.text) {
		u.once.Do(u.f)
	}
	return len(p), nil
}

func TestSignalIsForwarded(t *testing.T) {
	c := small(t)
	signals := make(chan os.Signal, 1)
	out := &upon{text: "up\n", f: func() { signals <- syscall.SIGINT }}
	c.Signals, c.Stdout = signals, out
	exit, err := Run(t.Context(), c, []string{"sh", "-c", `trap 'echo got it; exit 3' INT; echo up; while :; do sleep 0.1; done`})
	if err != nil || exit != 3 || out.buf.String() != "up\ngot it\n" {
		t.Errorf("exit %d, error %v, output %q", exit, err, out.buf.String())
	}
}

func TestCommandThatIgnoresTheEndIsEnded(t *testing.T) {
	c := small(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	c.Stdout = &upon{text: "up\n", f: func() { cancel(enough) }}
	start := time.Now()
	_, err := Run(ctx, c, []string{"sh", "-c", `trap '' INT TERM; echo up; while :; do sleep 1; done`})
	if !errors.Is(err, enough) || !errors.Is(err, ErrDied) {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestBootIsTriedTwice(t *testing.T) {
	c := small(t)
	c.BootTimeout = 500 * time.Millisecond
	var logged []string
	c.Log = func(format string, args ...any) { logged = append(logged, fmt.Sprintf(format, args...)) }
	_, err := Run(t.Context(), c, []string{"true"})
	if !errors.Is(err, ErrBoot) {
		t.Errorf("error %v", err)
	}
	all := strings.Join(logged, "\n")
	for _, want := range []string{"boot 1 of 2 failed", "boot 2 of 2 failed", "its console"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in the log:\n%s", want, all)
		}
	}
}

// The probe that decides about KVM says yes to an accelerator that works, and no to a guest that does not come up.
func TestProbe(t *testing.T) {
	c, err := small(t).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p, err := prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if !probe(t.Context(), c, p, tcg) {
		t.Error("TCG works everywhere, and the probe says no")
	}
	p.initramfs = os.DevNull
	if probe(t.Context(), c, p, tcg) {
		t.Error("a kernel without an initramfs panics, and the probe says yes")
	}
}

func TestSecondPreparationOnlyLooks(t *testing.T) {
	c := small(t)
	if err := Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.Log = func(format string, args ...any) { t.Errorf("it says %s", fmt.Sprintf(format, args...)) }
	if err := Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// child is the process id of this process's child whose program's name begins so; empty if there is none.
func child(name string) string {
	threads, _ := filepath.Glob("/proc/self/task/*/children")
	for _, thread := range threads {
		pids, _ := os.ReadFile(thread)
		for pid := range strings.FieldsSeq(string(pids)) {
			if comm, _ := os.ReadFile("/proc/" + pid + "/comm"); strings.HasPrefix(string(comm), name) {
				return pid
			}
		}
	}
	return ""
}

// The guest's 10.0.2.2 is the loopback of the network namespace that QEMU runs in, not the host's.
func TestNetNS(t *testing.T) {
	name := fmt.Sprintf("lab-test-%d", os.Getpid())
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "ip", "netns", "del", name).Run() })
	c := small(t)
	c.NetNS, c.Uplink = "/run/netns/"+name, true
	var ns string
	qemuNS := func() {
		var self, other unix.Stat_t
		if err := errors.Join(unix.Stat("/proc/"+child("qemu")+"/ns/net", &self), unix.Stat(c.NetNS, &other)); err != nil {
			ns = err.Error()
		} else if ns = "another"; self.Ino == other.Ino {
			ns = "right"
		}
	}
	c.Stdout = &upon{text: "up\n", f: qemuNS}
	if exit, err := Run(t.Context(), c, []string{"sh", "-c", "echo up; ls -d /sys/class/net/*/device/driver"}); exit != 0 || err != nil {
		t.Errorf("exit %d, error %v: the uplink has no driver?", exit, err)
	}
	if ns != "right" {
		t.Errorf("QEMU's network namespace: %s", ns)
	}
}
