package delegate

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// groupMembers lists the live processes of a group.
func groupMembers(t *testing.T, group int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && s.group == group && s.state != 'Z' && s.state != 'X' {
			out = append(out, pid)
		}
	}
	return out
}

// endChild ends the child that a stand-in has started, by the process id that it writes into its effect.
func endChild(t *testing.T, effect string) {
	t.Helper()
	waitFor(t, "the plugin's child", func() bool {
		data, err := os.ReadFile(effect)
		if err != nil || len(data) == 0 {
			return false
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil && unix.Kill(pid, unix.SIGKILL) == nil
	})
}

func sleeper(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestProcessEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Process)
		ends   bool
	}{
		"the plugin itself":             {func(*Process) {}, true},
		"a later process of its number": {func(p *Process) { p.Start-- }, false},
		"another group":                 {func(p *Process) { p.PID = 1 << 22; p.Start = 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := sleeper(t)
			p, err := newProcess(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(&p)
			if err := p.end(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
			s, err := readStat(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if ended := s.state == 'Z'; ended != tc.ends {
				t.Errorf("want ended %v, it is in state %c", tc.ends, s.state)
			}
		})
	}
}

// A group whose leader is gone may be ours or, in theory, a stranger's: its members must say for whom they work.
func TestProcessEndSparesStrangers(t *testing.T) {
	leader := sleeper(t)
	join := func(env string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		cmd.Env = append(os.Environ(), env)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: leader.Process.Pid}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	ours, stranger := join("CNI_CONTAINERID=c1"), join("CNI_CONTAINERID=c10")
	p, err := newProcess(leader.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = leader.Process.Kill()
	_ = leader.Wait()
	if err := p.end(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		cmd   *exec.Cmd
		state byte
	}{"ours": {ours, 'Z'}, "the stranger": {stranger, 'S'}} {
		if s, err := readStat(tc.cmd.Process.Pid); err != nil || s.state != tc.state {
			t.Errorf("%s: want state %c, got %c (%v)", what, tc.state, s.state, err)
		}
	}
}

// What could not be ended is still on record for the next call, which ends it before it does anything.
func TestLeftoverIsRemembered(t *testing.T) {
	n := newNode(t)
	cmd := sleeper(t)
	p, err := newProcess(cmd.Process.Pid)
	if err == nil {
		err = n.Running.Write("c1", p)
	}
	if err != nil {
		t.Fatal(err)
	}
	onRecord := func() bool { _, err := n.Running.Age("c1"); return err == nil }
	hopeless, cancel := context.WithCancel(t.Context())
	cancel() // no time for it to end
	if err := n.Check(hopeless, n.sandbox("c1")); err == nil || !onRecord() {
		t.Fatalf("got %v; on record: %v", err, onRecord())
	}
	// Nor does a plugin that runs after it, and ends well, make it forgotten.
	later := &Runner{Records: n.Records, Running: n.Running, Path: n.Path, Devices: n.Devices, Timeout: n.Timeout, Log: n.Log}
	later.unended.Store("c1", []Process{p})
	if err := n.Running.Remove("c1"); err != nil {
		t.Fatal(err)
	}
	if err := later.Del(t.Context(), n.sandbox("c1"), n.attachments()[0]); err != nil || len(n.trace()) != 1 {
		t.Fatalf("got %v; plugins: %v", err, n.trace())
	}
	var on processes
	if err := n.Running.Read("c1", &on); err != nil || on.Process != p {
		t.Fatalf("on record is %+v, %v; want %+v", on, err, p)
	}
	if err := n.Check(t.Context(), n.sandbox("c1")); err == nil || onRecord() {
		t.Errorf("then %v; on record: %v", err, onRecord())
	}
	if s, err := readStat(cmd.Process.Pid); err != nil || s.state != 'Z' {
		t.Errorf("it is in state %c, %v", s.state, err)
	}
}
