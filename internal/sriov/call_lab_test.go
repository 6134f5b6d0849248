//go:build lab

package sriov_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// A pod is a network namespace and a container id.
type pod struct {
	*node
	id, ns string
}

var pods int

func (n *node) newPod() *pod {
	n.Helper()
	pods++
	p := &pod{node: n, id: fmt.Sprintf("c%d-%d", pods, os.Getpid()), ns: fmt.Sprintf("pod%d", pods)}
	n.ip("netns", "add", p.ns)
	n.Cleanup(func() { _ = exec.Command("ip", "netns", "del", p.ns).Run() })
	return p
}

// attached is a VF in a pod, with all that a network can ask for, and how the VF was before.
func attached(t *testing.T) (n *node, d *pci.Device, before state, p *pod) {
	t.Helper()
	n = newNode(t)
	d = n.vfs[0]
	before, p = n.state(d), n.newPod()
	p.call("ADD", p.conf(d, full())).must(t)
	return n, d, before, p
}

func (p *pod) path() string { return "/run/netns/" + p.ns }

func (p *pod) kill() { p.ip("netns", "del", p.ns) }

func (n *node) ip(args ...string) string {
	n.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		n.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// conf is a network definition.
type conf map[string]any

func (p *pod) conf(d *pci.Device, more conf) conf {
	c := conf{"cniVersion": "1.1.0", "name": "fast", "type": "sriov", "deviceID": d.Address.String(), "logLevel": "debug"}
	maps.Copy(c, more)
	return c
}

// An invocation is one run of the plugin.
type invocation struct {
	verb, id, ns, ifName, args string
	conf                       conf
}

func (p *pod) call(verb string, c conf) invocation {
	return invocation{verb: verb, id: p.id, ns: p.path(), ifName: "net1", conf: c}
}

// command makes the run; out takes the result.
func (i invocation) command(ctx context.Context, out *bytes.Buffer) (*exec.Cmd, error) {
	stdin, err := json.Marshal(i.conf)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, *plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+i.verb, "CNI_CONTAINERID="+i.id, "CNI_NETNS="+i.ns, "CNI_IFNAME="+i.ifName,
		"CNI_ARGS="+i.args, "CNI_PATH="+cniPath())
	cmd.Stdin, cmd.Stdout = bytes.NewReader(stdin), out
	return cmd, nil
}

// run calls the plugin; a CNI error is a *types.Error.
func (i invocation) run(t *testing.T) ([]byte, error) {
	t.Helper()
	var log bytes.Buffer
	out, err := i.try(t.Context(), &log)
	t.Logf("%s %s %s\n%s%s", i.verb, i.id, i.ns, log.Bytes(), out)
	var answer *types.Error
	if err != nil && !errors.As(err, &answer) {
		t.Fatal(err)
	}
	return out, err
}

// try is run for those who go on after anything.
func (i invocation) try(ctx context.Context, log *bytes.Buffer) ([]byte, error) {
	var out bytes.Buffer
	cmd, err := i.command(ctx, &out)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, i.answer(exit, out.Bytes())
	}
	return out.Bytes(), err
}

// answer is the error that a failed plugin wrote.
func (i invocation) answer(cause error, out []byte) error {
	var answer types.Error
	if json.Unmarshal(out, &answer) != nil || answer.Msg == "" {
		return fmt.Errorf("%s: %w without a CNI error on stdout: %q", i.verb, cause, out)
	}
	return &answer
}

// must is run for what has to succeed.
func (i invocation) must(t *testing.T) []byte {
	t.Helper()
	out, err := i.run(t)
	if err != nil {
		t.Fatalf("%s: %v", i.verb, err)
	}
	return out
}

// wantCode fails unless err is a CNI error with this code that says all of the words.
func wantCode(t *testing.T, err error, code uint, words ...string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want an error with code %d", err, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("error %q does not say %q", e.Error(), w)
		}
	}
}

// openRecords lists the VFs whose record says that they are somebody's.
func openRecords(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(records + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(`"phase":"free"`)) {
			open = append(open, filepath.Base(f))
		}
	}
	return open
}

// owing lists the VFs whose record says that something is owed.
func owing(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(records + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		return err == nil && !bytes.Contains(b, []byte(`"owed":`))
	})
}

func recordPath(d *pci.Device) string { return filepath.Join(records, d.Address.String()+".json") }

// noProcess fails if a process of this name lives on.
func noProcess(t *testing.T, name string) {
	t.Helper()
	_, err := eventually(func() (int, error) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			if err == nil && strings.TrimSpace(string(comm)) == name {
				return 0, fmt.Errorf("process %s %s lives on", e.Name(), name)
			}
		}
		return 0, nil
	})
	if err != nil {
		t.Error(err)
	}
}
