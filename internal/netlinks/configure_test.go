package netlinks

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

func address(t *testing.T, cidr, gateway string) *types100.IPConfig {
	t.Helper()
	n, err := types.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return &types100.IPConfig{Address: *n, Gateway: net.ParseIP(gateway)}
}

func route(t *testing.T, cidr, gateway string) *types.Route {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Route{Dst: *n, GW: net.ParseIP(gateway)}
}

// shown runs ip(8) in the test's namespace.
func shown(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
	return string(out)
}

// thisNetns is the namespace that the test's thread is in, and net1 in it, whose other end is the neighbour.
func thisNetns(t *testing.T) (*netns.Netns, Interface) {
	t.Helper()
	inNewNetns(t)
	ns, err := netns.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	ip(t, "link add net1 address 02:00:00:00:00:01 type veth peer name neighbour", "link set neighbour up", "link set net1 up")
	i, err := net.InterfaceByName("net1")
	if err != nil {
		t.Fatal(err)
	}
	return ns, Interface{Index: i.Index, Name: "net1", MAC: i.HardwareAddr, HasCarrier: func() (bool, error) { return true, nil }}
}

func TestConfigure(t *testing.T) {
	ns, net1 := thisNetns(t)
	if err := setSysctl(ns, "ipv6", "net1", "disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	ips := []*types100.IPConfig{address(t, "10.9.0.7/24", "10.9.0.1"), address(t, "fd00:9::7/64", "fd00:9::1")}
	routes := []*types.Route{
		route(t, "0.0.0.0/0", ""), route(t, "10.20.0.0/16", "10.9.0.2"), route(t, "::/0", ""), route(t, "fd00:20::/64", "fd00:9::2"),
	}
	for range 2 { // a repeated ADD finds them there
		if err := Configure(ns, net1, ips, routes); err != nil {
			t.Fatal(err)
		}
	}
	all := shown(t, "addr show net1") + shown(t, "route") + shown(t, "-6 route")
	for _, want := range []string{
		"10.9.0.7/24", "fd00:9::7/64", "default via 10.9.0.1 dev net1", "10.20.0.0/16 via 10.9.0.2 dev net1",
		"default via fd00:9::1 dev net1", "fd00:20::/64 via fd00:9::2 dev net1",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in:\n%s", want, all)
		}
	}
	if global := shown(t, "addr show net1 scope global"); strings.Contains(global, "tentative") {
		t.Errorf("an address is tentative: %s", global)
	}
	if err := Check(ns, "net1", ips, routes); err != nil {
		t.Errorf("Check of what is there: %v", err)
	}
	ip(t, "route del 10.20.0.0/16", "addr del fd00:9::7/64 dev net1")
	err := Check(ns, "net1", ips, routes)
	if err == nil || !strings.Contains(err.Error(), "10.20.0.0/16") || !strings.Contains(err.Error(), "fd00:9::7/64") {
		t.Errorf("Check of what was removed: %v", err)
	}
}

// A pod's other interfaces keep their routes, though they are the same: without ours there is still a way out.
func TestConfigureLeavesOthersRoutes(t *testing.T) {
	ns, net1 := thisNetns(t)
	ip(t, "link add eth0 type veth peer name other", "link set other up", "link set eth0 up", "addr add 10.1.0.5/24 dev eth0", "addr add fd00:1::5/64 dev eth0 nodad",
		"route add default via 10.1.0.1 dev eth0", "-6 route add default via fd00:1::1 dev eth0")
	ips := []*types100.IPConfig{address(t, "10.9.0.7/24", "10.9.0.1"), address(t, "fd00:9::7/64", "fd00:9::1")}
	if err := Configure(ns, net1, ips, []*types.Route{route(t, "0.0.0.0/0", ""), route(t, "::/0", "")}); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, "route get 192.0.2.1"); !strings.Contains(got, "dev net1") {
		t.Errorf("IPv4 goes out %s", got)
	}
	ip(t, "link set net1 down")
	if got := shown(t, "route get 192.0.2.1") + shown(t, "-6 route get 2001:db8::1"); strings.Count(got, "dev eth0") != 2 {
		t.Errorf("without net1, frames go out\n%s", got)
	}
}

// The neighbour's kernel has to believe it: it takes the new MAC only from frames that are right in every field.
func TestAnnounce(t *testing.T) {
	ns, net1 := thisNetns(t)
	ips := []*types100.IPConfig{address(t, "10.9.0.7/24", ""), address(t, "fd00:9::7/64", "")}
	// The neighbour, in the same namespace, knows an old MAC.
	ip(t, "addr add 10.9.0.1/24 dev neighbour", "addr add fd00:9::1/64 dev neighbour nodad",
		"neigh add 10.9.0.7 lladdr 02:00:00:00:00:99 dev neighbour nud stale", "neigh add fd00:9::7 lladdr 02:00:00:00:00:99 dev neighbour nud stale")
	how, err := Announce(t.Context(), ns, net1, ips)
	if err != nil || how != "" {
		t.Fatalf("%q, %v", how, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		known := shown(t, "neigh show dev neighbour")
		if strings.Count(known, "02:00:00:00:00:01") == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the neighbour knows: %s", known)
		}
	}
}

// Without carrier the kernel is told to do it.
func TestAnnounceWithoutCarrier(t *testing.T) {
	ns, net1 := thisNetns(t)
	net1.HasCarrier = func() (bool, error) { return false, nil }
	how, err := Announce(t.Context(), ns, net1, []*types100.IPConfig{address(t, "10.9.0.7/24", "")})
	if err != nil || !strings.Contains(how, "arp_notify") {
		t.Fatalf("%q, %v", how, err)
	}
	out, err := exec.CommandContext(t.Context(), "cat", "/proc/sys/net/ipv4/conf/net1/arp_notify", "/proc/sys/net/ipv6/conf/net1/ndisc_notify").Output()
	if err != nil || string(out) != "1\n1\n" {
		t.Errorf("arp_notify and ndisc_notify: %q, %v", out, err)
	}
}
