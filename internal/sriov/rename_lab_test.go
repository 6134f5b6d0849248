//go:build lab

package sriov_test

import (
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// udev renames interfaces as they appear: here exactly while a verb is between two of its calls, with its threads stopped.
// A DEL that stumbles over it comes again, as runtimes do. The PF is renamed, too, while the VF is in the pod.
func TestRenamedInBetween(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	// meanwhile runs a verb, and renames the VF's interface before its first call that says at, counted from the one that
	// says after. It reports whether the verb succeeded.
	meanwhile := func(p *pod, verb, after, at string) bool {
		t.Helper()
		s := &site{node: n, scenario: scenario{verb: verb}, d: d, p: p}
		counts, renamed := false, false
		tr, err := s.traced(tracetest.Kill{Of: func(c tracetest.Call) bool {
			if dev, err := n.host.Find(d.Address.String()); counts && !renamed && err == nil && strings.Contains(c.String(), at) {
				n.ip("link", "set", dev.Name, "name", "udev0")
				renamed = true
			}
			counts = counts || strings.Contains(c.String(), after)
			return false
		}})
		if err != nil || !renamed {
			t.Fatalf("%s: renamed %v, %v\n%s", verb, renamed, err, s.log.Bytes())
		}
		if tr.Status.ExitStatus() != 0 {
			t.Logf("%s, renamed before %q: %s", verb, at, s.log.Bytes())
		}
		return tr.Status.ExitStatus() == 0
	}
	// At once when it is at home; and after it was looked at there, before it is set.
	for _, between := range [][2]string{{"(move)", "VF settings"}, {"VF settings", "RTM_SETLINK"}} {
		p := n.newPod()
		if !meanwhile(p, "ADD", "rename", "VF settings") {
			t.Fatal("ADD failed")
		}
		back := n.renamePF(d, "pf0")
		if !meanwhile(p, "DEL", between[0], between[1]) {
			p.call("DEL", p.conf(d, full())).must(t)
		}
		back()
		if err := n.leftovers(d, before); err != nil {
			t.Errorf("renamed between %q: %v", between, err)
		}
	}
}

// renamePF gives the PF of a VF that is in a pod another name, for which this kernel wants it down. back undoes it.
func (n *node) renamePF(d *pci.Device, name string) (back func()) {
	n.Helper()
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		n.Fatal(err)
	}
	was := pf.Netdevs[0].Name
	n.ip("link", "set", was, "down")
	n.ip("link", "set", was, "name", name)
	n.ip("link", "set", name, "up")
	if err := awaitVFs(len(n.vfs) - 1); err != nil { // that one is in a pod
		n.Fatal(err)
	}
	return func() {
		n.ip("link", "set", name, "down")
		n.ip("link", "set", name, "name", was)
		n.ip("link", "set", was, "up")
		if err := awaitVFs(len(n.vfs)); err != nil {
			n.Fatal(err)
		}
	}
}
