//go:build lab

package sriov_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// inProcess is the plugin as a library, for what the built one waits too long for, and its log.
func inProcess() (*sriov.Plugin, *bytes.Buffer) {
	log := &bytes.Buffer{}
	p := sriov.New(records, slog.New(slog.NewTextHandler(log, nil)))
	p.Out, p.LockWait, p.ReturnWait, p.IPAMWait = &bytes.Buffer{}, time.Second, time.Second, time.Second
	return p, log
}

func (i invocation) cmdArgs(t *testing.T) *cni.CmdArgs {
	t.Helper()
	stdin, err := json.Marshal(i.conf)
	if err != nil {
		t.Fatal(err)
	}
	return &cni.CmdArgs{ContainerID: i.id, Netns: i.ns, IfName: i.ifName, Args: i.args, Path: cniPath(), StdinData: stdin}
}

// The pod's namespace is deleted while its ADD runs. Whatever that ADD answers, the DEL that follows finds all there is.
func TestNetnsDiesUnderAdd(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	until := filepath.Join(t.TempDir(), "go-on")
	c := p.conf(d, conf{"vlan": 5, "ipam": conf{"type": "test-ipam", "hang": "ADD", "until": until, "addresses": []string{"10.9.0.8/24"}}})
	added := make(chan error, 1)
	go func() { _, err := p.call("ADD", c).run(t); added <- err }()
	awaitLease(t)
	p.kill()
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log("the ADD ended with", <-added)
	p.call("DEL", c).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

func awaitLease(t *testing.T) {
	t.Helper()
	if _, err := eventually(func() (int, error) {
		if len(leaseFiles(t)) == 0 {
			return 0, os.ErrNotExist
		}
		return 0, nil
	}); err != nil {
		t.Fatal("the IPAM plugin never ran")
	}
}

// A namespace that lives on after its pod: DEL takes the VF out of it.
func TestNetnsLivesOn(t *testing.T) {
	tests := map[string]func(t *testing.T, p *pod){
		"a socket holds it": func(t *testing.T, p *pod) {
			s := &site{node: p.node}
			if err := s.hold(p); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.undo[0])
		},
		"a process in a namespace inside has the VF": func(t *testing.T, p *pod) {
			nested := nest(t, p)
			p.ip("-n", p.ns, "link", "set", "net1", "netns", strconv.Itoa(nested))
			p.kill()
		},
		"a process in a namespace inside has the VF, and the pod lives": func(t *testing.T, p *pod) {
			p.ip("-n", p.ns, "link", "set", "net1", "netns", strconv.Itoa(nest(t, p)))
		},
	}
	for name, hold := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[0]
			before := n.state(d)
			p := n.newPod()
			c := p.conf(d, conf{"vlan": 5, "mac": "02:00:00:00:00:19"})
			p.call("ADD", c).must(t)
			hold(t, p)
			plugin, log := inProcess()
			if err := plugin.Del(t.Context(), p.call("DEL", c).cmdArgs(t)); err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			if err := n.leftovers(d, before); err != nil {
				t.Errorf("%v\n%s", err, log)
			}
		})
	}
}

// nest starts a process in a network namespace of its own inside the pod, and gives its id.
func nest(t *testing.T, p *pod) int {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.Command("ip", "netns", "exec", p.ns, "unshare", "--net", "sh", "-c", "echo $$ >"+ready+".new; mv "+ready+".new "+ready+"; exec sleep 600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid, err := eventually(func() (int, error) {
		b, err := os.ReadFile(ready)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(string(bytes.TrimSpace(b)))
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// An IPAM plugin that never answers is ended, with an error to try again, and nothing of the ADD stays.
func TestIPAMHangs(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	c := p.conf(d, conf{"vlan": 5, "ipam": conf{"type": "test-ipam", "hang": "ADD", "until": "/nowhere"}})
	plugin, _ := inProcess()
	wantCode(t, plugin.Add(t.Context(), p.call("ADD", c).cmdArgs(t)), 11, "test-ipam")
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
	noProcess(t, "test-ipam")
}

// One that hangs when it is to release addresses keeps neither the pod's end nor its VF for ever.
func TestIPAMHangsAtDel(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p, next := n.newPod(), n.newPod()
	until := filepath.Join(t.TempDir(), "go-on")
	c := p.conf(d, conf{"vlan": 5, "ipam": conf{"type": "test-ipam", "hang": "DEL", "until": until, "addresses": []string{"10.9.0.8/24"}}})
	p.call("ADD", c).must(t)
	plugin, _ := inProcess()
	wantCode(t, plugin.Del(t.Context(), p.call("DEL", c).cmdArgs(t)), 11, "test-ipam")
	if diff := cmp.Diff(before, n.state(d)); diff != "" || len(openRecords(t)) != 1 {
		t.Errorf("after DEL, with open records %v: %s", openRecords(t), diff)
	}
	p.kill()
	for _, verb := range []func(context.Context, *cni.CmdArgs) error{plugin.Add, plugin.Del} {
		if err := verb(t.Context(), next.call("", next.conf(d, nil)).cmdArgs(t)); err != nil {
			t.Errorf("the next pod: %v", err)
		}
	}
	if len(owing(t)) != 1 {
		t.Errorf("records that owe the lease: %v", owing(t))
	}
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.call("DEL", c).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
	noProcess(t, "test-ipam")
}

// A runtime that starts an ADD while the DEL before it still runs, for the same container: what is leased afterwards is
// what has an open record.
func TestDelOverlapsAdd(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	c := p.conf(d, full())
	for round := range 8 {
		errs := make(chan error, 2)
		go func() { _, err := p.call("DEL", c).run(t); errs <- err }()
		go func() { _, err := p.call("ADD", c).run(t); errs <- err }()
		err := errors.Join(<-errs, <-errs)
		if leased, open := len(leaseFiles(t)), len(openRecords(t)); leased != open {
			t.Fatalf("round %d: %d leases and %d open records: %v", round, leased, open, err)
		}
		if round%2 == 0 {
			p.call("DEL", c).must(t)
		}
	}
	p.call("DEL", c).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

// A state folder that takes nothing: an ADD changes nothing, and a DEL does what it can and is to come again.
func TestStateFolder(t *testing.T) {
	tests := map[string]struct {
		spoil, mend func(t *testing.T)
		// Without a lock nothing is done to the VF.
		locked bool
	}{
		"full": {
			func(t *testing.T) {
				err := os.WriteFile(filepath.Join(records, "filler"), make([]byte, 1<<20), 0o600)
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("fill the state folder: %v", err)
				}
			},
			func(*testing.T) { _ = os.Remove(filepath.Join(records, "filler")) }, true,
		},
		"read-only": {
			func(t *testing.T) { remount(t, "ro") }, func(t *testing.T) { remount(t, "rw") }, false,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			d := n.vfs[0]
			before := n.state(d)
			p := n.newPod()
			c := p.conf(d, full())
			noRecords(t)
			if err := errors.Join(os.MkdirAll(records, 0o700), unix.Mount("none", records, "tmpfs", 0, "size=64k")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(records, unix.MNT_DETACH) })

			tt.spoil(t)
			_, err := p.call("ADD", c).run(t)
			wantCode(t, err, 5)
			if err := n.leftovers(d, before); err != nil {
				t.Errorf("after the refused ADD: %v", err)
			}
			tt.mend(t)
			p.call("ADD", c).must(t)
			tt.spoil(t)
			_, err = p.call("DEL", c).run(t)
			wantCode(t, err, 5)
			if l := leaseFiles(t); len(l) != 0 {
				t.Errorf("leases left: %v", l)
			}
			if now, err := n.stateNow(d); tt.locked && err != nil {
				t.Errorf("the VF is not at home: %v, %v", now, err)
			}
			tt.mend(t)
			p.call("DEL", c).must(t)
			if err := n.leftovers(d, before); err != nil {
				t.Errorf("after the second DEL: %v", err)
			}
		})
	}
}

func remount(t *testing.T, how string) {
	t.Helper()
	if out, err := exec.CommandContext(context.Background(), "mount", "-o", "remount,"+how, records).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("remount: %w: %s", err, out))
	}
}

// A rate that could not be put back is not for the next pod: its ADD puts it back. QEMU's igb always has a link, so what the
// driver does without one is in TestSettleWhatCan, and this is what a DEL left that met with it.
func TestOwedRate(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p, next := n.newPod(), n.newPod()
	p.call("ADD", p.conf(d, nil)).must(t)
	p.call("DEL", p.conf(d, nil)).must(t)
	store, r := sriov.DefaultRecords(records), &sriov.Record{}
	if err := store.Read(d.Address.String(), r); err != nil {
		t.Fatal(err)
	}
	r.Owed.Rate = r.Baseline.Settings.Rate
	if err := errors.Join(store.Write(d.Address.String(), r), n.host.Write(n.pf(d), d.VFIndex, vf.Settings{Rate: &vf.Rate{Max: 100}})); err != nil {
		t.Fatal(err)
	}
	next.call("ADD", next.conf(d, nil)).must(t)
	if got := n.inUse(d); *got.Rate != *before.Settings.Rate {
		t.Errorf("the next pod inherits %v", got.Rate)
	}
	next.call("DEL", next.conf(d, nil)).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}
