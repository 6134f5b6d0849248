package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// A NIC without VFs that was the node's uplink, step by step: what happens, how much time passes, and whether it is kept
// from pods then.
func TestUplinkIsRemembered(t *testing.T) {
	const nic, other = 4, 1
	type step struct {
		what     string
		do       func(tree pcitest.Tree, links map[int]netlinks.NodeLink)
		minutes  int
		reserved bool
	}
	carry := func(index int) func(pcitest.Tree, map[int]netlinks.NodeLink) {
		return func(_ pcitest.Tree, links map[int]netlinks.NodeLink) {
			l := links[index]
			l.Uplink = "an IPv4 default route goes through it"
			links[index] = l
		}
	}
	lose := func(index int) func(pcitest.Tree, map[int]netlinks.NodeLink) {
		return func(_ pcitest.Tree, links map[int]netlinks.NodeLink) {
			l := links[index]
			l.Uplink = ""
			links[index] = l
		}
	}
	wait := func(pcitest.Tree, map[int]netlinks.NodeLink) {}
	tests := map[string][]step{
		"never one": {{"nothing", wait, 0, false}},
		"for a moment": {
			{"it carries", carry(nic), 0, true},
			{"nobody carries", lose(nic), 1, true},
			{"it carries again", carry(nic), 1, true},
		},
		"while nobody else is": {
			{"it carries", carry(nic), 0, true},
			{"nobody carries", lose(nic), 24 * 60, true},
		},
		"another took over": {
			{"it carries", carry(nic), 0, true},
			{"another carries, too", carry(other), 60, true},
			{"another alone", lose(nic), 0, true},
			{"still", wait, 9, true},
			{"for long", wait, 1, false},
			{"and nobody", lose(other), 1, false},
		},
		"another took over with a break": {
			{"it carries", carry(nic), 0, true},
			{"nobody carries", lose(nic), 0, true},
			{"another does", carry(other), 0, true},
			{"still", wait, 9, true},
			{"nobody carries", lose(other), 1, true},
			{"another does again", carry(other), 9, true},
			{"still", wait, 9, true},
			{"for long", wait, 1, false},
		},
		"its interface went and came back under another index": {
			{"it carries", carry(nic), 0, true},
			{"driver unbound", func(tree pcitest.Tree, links map[int]netlinks.NodeLink) {
				tree.RemoveNet("0000:02:00.0", "ens2")
				tree.Bind("0000:02:00.0", "")
				delete(links, nic)
			}, 0, true},
			{"driver bound", func(tree pcitest.Tree, links map[int]netlinks.NodeLink) {
				tree.Bind("0000:02:00.0", "igb")
				tree.AddNet("0000:02:00.0", pcitest.Net{Name: "ens2", Index: 9})
				links[9] = netlinks.NodeLink{Name: "ens2"}
			}, 0, true},
		},
		"given to DPDK": {
			{"it carries", carry(nic), 0, true},
			{"driver changed", func(tree pcitest.Tree, links map[int]netlinks.NodeLink) {
				tree.RemoveNet("0000:02:00.0", "ens2")
				tree.Bind("0000:02:00.0", "vfio-pci")
				delete(links, nic)
			}, 0, false},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			tree := pcitest.New(t)
			tree.AddIGB("02", "ens2", nic, 0)
			now := time.Unix(0, 0)
			v := newViewer()
			v.now = func() time.Time { return now }
			l := map[int]netlinks.NodeLink{nic: {Name: "ens2"}, other: {Name: "wlan0"}}
			for _, s := range steps {
				s.do(tree, l)
				now = now.Add(time.Duration(s.minutes) * time.Minute)
				reserved := view(t, v, tree, l)["0000:02:00.0"].Reserved
				if (reserved != "") != s.reserved || reserved != "" && !strings.Contains(reserved, "own traffic") {
					t.Errorf("%s: reserved is %q, want %v", s.what, reserved, s.reserved)
				}
			}
		})
	}
}
