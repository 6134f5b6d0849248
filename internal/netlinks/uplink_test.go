package netlinks

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// inNewNetns moves the test into a network namespace of its own. The thread is never unlocked, so the runtime ends it
// with the test's goroutine and nobody else gets it.
func inNewNetns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (the test needs to be root): %v", err)
	}
}

// ip runs ip(8) commands in the calling thread's network namespace, which a child inherits.
func ip(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if err := tryIP(t, c); err != nil {
			t.Fatal(err)
		}
	}
}

func tryIP(t *testing.T, command string) error {
	t.Helper()
	// Not the test's context: a test's clean-up is after its end.
	if out, err := exec.CommandContext(context.Background(), "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w\n%s", command, err, out)
	}
	return nil
}

type uplinkTest struct {
	noCompat  bool               // routes by next-hop objects are listed without what these say
	before    func(t *testing.T) // what ip cannot do; nil: nothing
	setup     []string
	uplinks   []string // the interfaces that must be found, sorted by name in the check
	addressed []string
}

func (test uplinkTest) run(t *testing.T) {
	inNewNetns(t)
	if test.noCompat {
		if err := os.WriteFile("/proc/sys/net/ipv4/nexthop_compat_mode", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if test.before != nil {
		test.before(t)
	}
	ip(t, test.setup...)
	links, err := NodeLinks()
	if err != nil {
		t.Fatal(err)
	}
	uplinks, addressed := map[string]bool{}, map[string]bool{}
	for _, l := range links {
		if l.Uplink != "" {
			uplinks[l.Name] = true
		}
		if l.Addressed != "" {
			addressed[l.Name] = true
		}
	}
	if diff := cmp.Diff(set(test.uplinks), uplinks); diff != "" {
		t.Errorf("uplinks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(set(test.addressed), addressed); diff != "" {
		t.Errorf("addressed (-want +got):\n%s", diff)
	}
}

func set(names []string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

func TestNodeLinks(t *testing.T) {
	// nic1 and nic2 stand for NICs: what the guard follows are links, addresses and routes, and veth has those, too.
	nics := []string{"link add nic1 type veth peer name far1", "link add nic2 type veth peer name far2", "link set nic1 up", "link set far1 up", "link set nic2 up", "link set far2 up"}
	tests := map[string]uplinkTest{
		"nothing": {},
		"IPv4 default route": {
			setup:   []string{"addr add 192.0.2.2/24 dev nic1", "route add default via 192.0.2.1"},
			uplinks: []string{"nic1", "far1"}, addressed: []string{"nic1", "far1"},
		},
		"IPv4 default route without a gateway": {setup: []string{"route add default dev nic1"}, uplinks: []string{"nic1", "far1"}},
		"IPv6 default route":                   {setup: []string{"-6 route add default dev nic1"}, uplinks: []string{"nic1", "far1"}},
		"in another table":                     {setup: []string{"route add default dev nic1 table 100"}, uplinks: []string{"nic1", "far1"}},
		"two halves":                           {setup: []string{"route add 0.0.0.0/1 dev nic1", "route add 128.0.0.0/1 dev nic1"}, uplinks: []string{"nic1", "far1"}},
		"several next hops":                    {setup: []string{"route add default nexthop dev nic1 nexthop dev nic2"}, uplinks: []string{"nic1", "far1", "nic2", "far2"}},
		"several IPv6 next hops": {
			setup:   []string{"-6 route add default nexthop via fe80::1 dev nic1 nexthop via fe80::1 dev nic2"},
			uplinks: []string{"nic1", "far1", "nic2", "far2"},
		},
		"a next-hop object": {
			setup:   []string{"nexthop add id 10 dev nic1", "route add default nhid 10"},
			uplinks: []string{"nic1", "far1"},
		},
		"a group of next-hop objects, without their interfaces": {
			noCompat: true,
			setup: []string{
				"nexthop add id 10 dev nic1", "nexthop add id 11 dev nic2", "nexthop add id 12 group 10/11",
				"route add default nhid 12",
			},
			uplinks: []string{"nic1", "far1", "nic2", "far2"},
		},
		"an IPv6 next-hop object, without its interface": {
			noCompat: true,
			setup:    []string{"-6 nexthop add id 10 via fe80::1 dev nic1", "-6 route add default nhid 10"},
			uplinks:  []string{"nic1", "far1"},
		},
		"unreachable default":  {setup: []string{"route add unreachable default", "-6 route add unreachable default"}},
		"an ordinary route":    {setup: []string{"route add 198.51.100.0/24 dev nic1"}},
		"address alone":        {setup: []string{"addr add 192.0.2.2/24 dev nic1"}, addressed: []string{"nic1", "far1"}},
		"IPv6 address":         {setup: []string{"addr add 2001:db8::2/64 dev nic1 nodad"}, addressed: []string{"nic1", "far1"}},
		"link-local addresses": {setup: []string{"addr add 169.254.3.4/16 dev nic1", "addr add fe80::1234/64 dev nic1 nodad"}},
		"below a bridge": {
			setup:   []string{"link add br0 type bridge", "link set nic1 master br0", "link set br0 up", "addr add 192.0.2.2/24 dev br0", "route add default via 192.0.2.1"},
			uplinks: []string{"br0", "nic1", "far1"}, addressed: []string{"br0", "nic1", "far1"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.setup = append(append([]string{}, nics...), test.setup...)
			test.run(t)
		})
	}
}

// Behind Open vSwitch every NIC counts, and says always the same.
func TestOpenVSwitch(t *testing.T) {
	g := newGraph()
	for index, i := range map[int]iface{
		1: {kind: openVSwitch, NodeLink: NodeLink{Name: "ovs-system"}}, 2: {kind: openVSwitch, NodeLink: NodeLink{Name: "br-ex"}},
		3: {master: 1, NodeLink: NodeLink{Name: "nic1"}}, 4: {master: 1, NodeLink: NodeLink{Name: "nic2"}}, 5: {NodeLink: NodeLink{Name: "nic3"}},
	} {
		g.set(index, &i)
	}
	for start, want := range map[int]map[string]string{
		2: {
			"br-ex": "why", "nic1": "Open vSwitch switches between it and br-ex: why", "nic2": "Open vSwitch switches between it and br-ex: why",
		},
		3: {"nic1": "why", "nic2": "Open vSwitch switches between it and nic1: why"},
		5: {"nic3": "why"},
	} {
		g.routes = []root{{start, "why"}}
		got := map[string]string{}
		for index, m := range g.mark() {
			got[g.links[index].Name] = m.uplink
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("from %d (-want +got):\n%s", start, diff)
		}
	}
}

func TestIsDefault(t *testing.T) {
	for cidr, want := range map[string]bool{"0.0.0.0/0": true, "::/0": true, "128.0.0.0/1": true, "10.0.0.0/8": false} {
		_, dst, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if got := isDefault(dst); got != want {
			t.Errorf("%s: got %v, want %v", cidr, got, want)
		}
	}
	if !isDefault(nil) {
		t.Error("a route without a destination is none")
	}
}

func TestAltNames(t *testing.T) {
	inNewNetns(t)
	ip(t, "link add nic1 type veth peer name far1", "link property add dev nic1 altname enp59s0f0np0")
	links, err := NodeLinks()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "nic1" {
			if diff := cmp.Diff([]string{"enp59s0f0np0"}, l.AltNames); diff != "" {
				t.Error(diff)
			}
			return
		}
	}
	t.Error("nic1 is not there")
}
