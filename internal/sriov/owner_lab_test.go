//go:build lab

package sriov_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// Only its owner's DEL touches a VF; a living owner keeps it.
func TestOwner(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	old, young := n.newPod(), n.newPod()
	old.call("ADD", old.conf(d, conf{"vlan": 7, "trust": "on"})).must(t)

	_, err := young.call("ADD", young.conf(d, full())).run(t)
	wantCode(t, err, 11, d.Address.String(), old.id)
	if l := leaseFiles(t); len(l) != 0 {
		t.Errorf("the refused ADD left leases: %v", l)
	}

	old.kill()
	young.call("ADD", young.conf(d, full())).must(t)
	inUse, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	if *inUse.VLAN != (vf.VLAN{ID: 100, QoS: 3, Proto: vf.Proto8021Q}) {
		t.Errorf("VLAN %v after the second ADD", inUse.VLAN)
	}
	// The late DEL of the old sandbox.
	old.call("DEL", old.conf(d, conf{"vlan": 7, "trust": "on"})).must(t)
	still, err := n.host.Read(n.pf(d), d.VFIndex)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(inUse, still); diff != "" {
		t.Errorf("the late DEL touched the new pod's VF: %s", diff)
	}
	n.ip("-n", young.ns, "link", "show", "net1")

	young.call("DEL", young.conf(d, full())).must(t)
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after DEL: %s", diff)
	}
}

// A namespace whose path has gone may have somebody in it: nobody's VF is put back under him without force.
func TestOwnerWhosePathIsGone(t *testing.T) {
	n, d, before, p := attached(t)
	process := ipCommand("netns", "exec", p.ns, "cat") // until its input ends
	input, err := process.StdinPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = input.Close() })
	_, err = eventually(func() (string, error) {
		pids := n.ip("netns", "pids", p.ns)
		if !strings.Contains(pids, strconv.Itoa(process.Process.Pid)) {
			return "", errors.New("the process is not in the pod yet: " + pids)
		}
		return pids, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p.kill()
	plugin, log := inProcess()
	if _, err := plugin.Restore(t.Context(), d.Address, false); !errors.Is(err, sriov.ErrLiving) {
		t.Errorf("while a process has it: %v\n%s", err, log)
	}
	if err := errors.Join(input.Close(), process.Wait()); err != nil {
		t.Fatal(err)
	}
	if outcome, err := plugin.Restore(t.Context(), d.Address, false); outcome != sriov.PutBack || err != nil {
		t.Errorf("afterwards it %s: %v\n%s", outcome, err, log)
	}
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}

// Two ADDs at once for one VF: one gets it, the other is told to try again.
func TestTwoAddsAtOnce(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	a, b := n.newPod(), n.newPod()
	errs := make(chan error, 2)
	for _, p := range []*pod{a, b} {
		go func() { _, err := p.call("ADD", p.conf(d, full())).run(t); errs <- err }()
	}
	first, second := <-errs, <-errs
	if first != nil {
		first, second = second, first
	}
	if first != nil {
		t.Fatalf("neither got it: %v, %v", first, second)
	}
	wantCode(t, second, 11)
	for _, p := range []*pod{a, b} {
		p.call("DEL", p.conf(d, full())).must(t)
	}
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after both DELs: %s", diff)
	}
}

// A DEL that comes while an ADD hangs calls it off: nothing of it stays, and no process.
func TestDelBeatsRunningAdd(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	p := n.newPod()
	c := p.conf(d, conf{"vlan": 5, "ipam": conf{"type": "test-ipam", "hang": "ADD", "addresses": []string{"10.9.0.8/24"}}})
	added := make(chan error, 1)
	go func() { _, err := p.call("ADD", c).run(t); added <- err }()
	if _, err := eventually(func() (int, error) {
		if len(leaseFiles(t)) == 0 {
			return 0, os.ErrNotExist
		}
		return 0, nil
	}); err != nil {
		t.Fatal("the IPAM plugin never ran")
	}
	_, err := p.call("DEL", c).run(t)
	wantCode(t, err, 11, "still running")
	wantCode(t, <-added, 11, "DEL")
	p.call("DEL", c).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
	noProcess(t, "test-ipam")
}
