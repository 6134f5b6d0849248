//go:build lab

package netlinks

import (
	"encoding/binary"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
		"below a team": {
			setup: []string{
				"link add nic1 type dummy", "link add nic2 type dummy", "link add team0 type team", "link set nic1 master team0",
				"link set team0 up", "route add default dev team0",
			},
			uplinks: []string{"team0", "nic1"},
		},
		"behind a bridge of Open vSwitch": {
			before: func(t *testing.T) {
				ip(t, "link add nic1 type dummy", "link add nic2 type dummy")
				makeOpenVSwitch(t, "br-ex", "nic1")
			},
			setup:   []string{"link set br-ex up", "addr add 192.0.2.2/24 dev br-ex", "route add default via 192.0.2.1"},
			uplinks: []string{"br-ex", "nic1"}, addressed: []string{"br-ex", "nic1"},
		},
	}
	for name, test := range tests {
		t.Run(name, test.run)
	}
}

// makeOpenVSwitch makes what ovs-vswitchd makes of a bridge with one port: a datapath, and in it an interface for each.
func makeOpenVSwitch(t *testing.T, bridge, nic string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "modprobe", "openvswitch").CombinedOutput(); err != nil {
		t.Fatalf("modprobe openvswitch: %v: %s", err, out)
	}
	// From linux/openvswitch.h.
	const (
		cmdNew                             = 1
		attrDPName, attrDPPid              = 1, 2
		attrType, attrName, attrPid        = 2, 3, 5
		typeNetdev, typeInternal    uint32 = 1, 2
	)
	call := func(family string, datapath int, attributes ...*nl.RtAttr) {
		t.Helper()
		f, err := netlink.GenlFamilyGet(family)
		if err != nil {
			t.Fatalf("%s: %v", family, err)
		}
		request := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
		request.AddRawData((&nl.Genlmsg{Command: cmdNew, Version: uint8(f.Version)}).Serialize())
		request.AddRawData(binary.NativeEndian.AppendUint32(nil, uint32(datapath))) // struct ovs_header
		for _, a := range attributes {
			request.AddRawData(a.Serialize())
		}
		if _, err := request.Execute(unix.NETLINK_GENERIC, 0); err != nil {
			t.Fatalf("%s: %v", family, err)
		}
	}
	nobody := nl.Uint32Attr(0)
	call("ovs_datapath", 0, nl.NewRtAttr(attrDPName, nl.ZeroTerminated("ovs-system")), nl.NewRtAttr(attrDPPid, nobody))
	system, err := netlink.LinkByName("ovs-system")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]uint32{bridge: typeInternal, nic: typeNetdev} {
		call("ovs_vport", system.Attrs().Index, nl.NewRtAttr(attrType, nl.Uint32Attr(kind)),
			nl.NewRtAttr(attrName, nl.ZeroTerminated(name)), nl.NewRtAttr(attrPid, nobody))
	}
}
