//go:build lab

package netlinks

import "testing"

// Kinds of links that a machine's kernel need not have: the lab's has them.
func TestNodeLinksOfEveryKind(t *testing.T) {
	tests := map[string]uplinkTest{
		"below a bond": {
			setup: []string{
				"link add nic1 type dummy", "link add bond0 type bond mode 1", "link set nic1 master bond0", "link set bond0 up",
				"route add default dev bond0",
			},
			uplinks: []string{"bond0", "nic1"},
		},
		"below a VLAN on a bond": {
			setup: []string{
				"link add nic1 type dummy", "link add nic2 type dummy", "link add bond0 type bond mode 1", "link set nic1 master bond0",
				"link set bond0 up", "link add link bond0 name bond0.7 type vlan id 7", "link set bond0.7 up",
				"addr add 192.0.2.2/24 dev bond0.7", "route add default via 192.0.2.1",
			},
			uplinks: []string{"bond0.7", "bond0", "nic1"}, addressed: []string{"bond0.7", "bond0", "nic1"},
		},
		"below a macvlan": {
			setup:   []string{"link add nic1 type dummy", "link set nic1 up", "link add link nic1 name mv type macvlan", "link set mv up", "-6 route add default dev mv"},
			uplinks: []string{"mv", "nic1"},
		},
		"in a VRF": {
			setup: []string{
				"link add nic1 type dummy", "link add nic2 type dummy", "link add vrf0 type vrf table 10", "link set vrf0 up",
				"link set nic1 master vrf0", "link set nic2 master vrf0", "link set nic1 up", "link set nic2 up",
				"route add default dev nic1 table 10",
			},
			uplinks: []string{"nic1"},
		},
		"below a VRF": {
			setup: []string{
				"link add nic1 type dummy", "link add vrf0 type vrf table 10", "link set vrf0 up", "link set nic1 master vrf0",
				"link set nic1 up", "route add default dev vrf0",
			},
			uplinks: []string{"vrf0", "nic1"},
		},
	}
	for name, test := range tests {
		t.Run(name, test.run)
	}
}
