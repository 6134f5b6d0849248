package defaultroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// sh runs a command and gives its output.
func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// podNetns is a namespace with eth0 (10.1.0.2/24, fd01::2/64) and net1 (10.2.0.2/24, fd02::2/64).
func podNetns(t *testing.T, name string, lines ...string) (path string, in func(string) string) {
	t.Helper()
	sh(t, "ip netns add "+name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	in = func(line string) string {
		return sh(t, "ip netns exec "+name+" sh -ec '"+line+"'")
	}
	in(`for i in 1 2; do n=$(if [ $i = 1 ]; then echo eth0; else echo net1; fi)
		ip link add $n type veth peer name peer$i; ip link set $n up; ip link set peer$i up
		ip addr add 10.$i.0.2/24 dev $n; ip addr add fd0$i::2/64 dev $n nodad; done`)
	for _, line := range lines {
		in(line)
	}
	return "/var/run/netns/" + name, in
}

func TestSet(t *testing.T) {
	const v4, v6 = "ip route add default via 10.1.0.1", "ip -6 route add default via fd01::1"
	net1 := func(addresses ...string) (out []Gateway) {
		for _, a := range addresses {
			out = append(out, Gateway{IfName: "net1", Address: netip.MustParseAddr(a)})
		}
		return out
	}
	for name, tc := range map[string]struct {
		before []string
		want   []Gateway
		routes []string
		fails  string
	}{
		"IPv4 only":          {[]string{v4}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"IPv6 only":          {[]string{v6}, net1("fd02::1"), []string{"default via fd02::1 dev net1"}, ""},
		"dual stack":         {[]string{v4, v6}, net1("10.2.0.1", "fd02::1"), []string{"default via 10.2.0.1 dev net1", "default via fd02::1 dev net1"}, ""},
		"one family asked":   {[]string{v4, v6}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"none before":        {nil, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"none asked":         {[]string{v4, v6}, nil, nil, ""},
		"IPv4 in IPv6":       {[]string{v4}, net1("::ffff:10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"two before":         {[]string{v4, "ip route add default via 10.2.0.9 metric 50"}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"two gateways":       {[]string{v4}, net1("10.2.0.1", "10.2.0.3"), []string{"default via 10.2.0.1 dev net1", "default via 10.2.0.3 dev net1"}, ""},
		"multipath before":   {[]string{"ip route add default nexthop via 10.1.0.1 nexthop via 10.2.0.9", "ip -6 route add default nexthop via fd01::1 nexthop via fd02::9"}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"nexthop objects":    {[]string{"ip nexthop add id 1 via 10.1.0.1 dev eth0", "ip route add default nhid 1", "ip nexthop add id 2 via fd01::1 dev eth0", "ip -6 route add default nhid 2"}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"same as before":     {[]string{"ip route add default via 10.2.0.1"}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"unreachable":        {[]string{v4, v6}, net1("192.0.2.1"), []string{"default via 10.1.0.1 dev eth0", "default via fd01::1 dev eth0"}, "192.0.2.1"},
		"second unreachable": {[]string{v4}, net1("10.2.0.1", "192.0.2.1"), []string{"default via 10.1.0.1 dev eth0"}, "192.0.2.1"},
		"IPv6 unreachable":   {[]string{v4, v6}, net1("10.2.0.1", "fd09::1"), []string{"default via 10.1.0.1 dev eth0", "default via fd01::1 dev eth0"}, "fd09::1"},
		"IPv4 unreachable":   {[]string{v4, v6}, net1("fd02::1", "192.0.2.1"), []string{"default via 10.1.0.1 dev eth0", "default via fd01::1 dev eth0"}, "192.0.2.1"},
		"put back without carrier": {
			[]string{v4, "ip link set peer1 down"}, net1("192.0.2.1"), []string{"default via 10.1.0.1 dev eth0"}, "192.0.2.1",
		},
		"put back multipath": {
			[]string{"ip route add default nexthop via 10.1.0.1 nexthop via 10.2.0.9", "ip link set peer1 down"},
			net1("192.0.2.1"),
			[]string{"default", "nexthop via 10.1.0.1 dev eth0", "nexthop via 10.2.0.9 dev net1"},
			"192.0.2.1",
		},
		"put back nexthop objects": {
			[]string{"ip nexthop add id 1 via 10.1.0.1 dev eth0", "ip route add default nhid 1"},
			net1("192.0.2.1"),
			[]string{"default nhid 1 via 10.1.0.1"},
			"192.0.2.1",
		},
		"put back IPv6 multipath": {
			[]string{"ip -6 route add default nexthop via fd01::1 nexthop via fd02::9", "ip link set peer1 down"},
			net1("192.0.2.1"),
			[]string{"default metric 1024 pref medium", "nexthop via fd01::1 dev eth0", "nexthop via fd02::9 dev net1"},
			"192.0.2.1",
		},
		"put back IPv6 nexthop objects": {
			[]string{"ip nexthop add id 2 via fd01::1 dev eth0", "ip -6 route add default nhid 2 metric 9"},
			net1("192.0.2.1"),
			[]string{"default nhid 2 via fd01::1"},
			"192.0.2.1",
		},
		"put back IPv6 as it was": {
			[]string{"ip -6 route add default via fd01::1 mtu 1400 metric 7 proto static pref high"},
			net1("192.0.2.1"),
			[]string{"default via fd01::1 dev eth0"},
			"192.0.2.1",
		},
		"put back as it was": {
			[]string{"ip route add default via 10.1.0.1 src 10.1.0.2 mtu 1400 metric 7 proto static dev eth0 onlink"},
			net1("192.0.2.1"),
			[]string{"default via 10.1.0.1 dev eth0"},
			"192.0.2.1",
		},
		"no such interface": {[]string{v4}, []Gateway{{"net7", netip.MustParseAddr("10.2.0.1")}}, []string{"default via 10.1.0.1 dev eth0"}, "net7"},
	} {
		t.Run(name, func(t *testing.T) {
			path, in := podNetns(t, fmt.Sprint("viaduct-routes-", os.Getpid()), tc.before...)
			in("ip route add default via 10.1.0.1 dev eth0 table 100")
			before := in("ip route show; ip -6 route show default")
			err := Set(path, tc.want)
			if got := fmt.Sprint(err); (err != nil) != (tc.fails != "") || !strings.Contains(got, tc.fails) {
				t.Errorf("want an error with %q, got %v", tc.fails, err)
			}
			if tc.fails != "" && !errors.Is(err, ErrGateway) {
				t.Errorf("is it the gateway? %v", err)
			}
			if diff := cmp.Diff(tc.routes, defaultsIn(in)); diff != "" {
				t.Errorf("default routes: -want +got:\n%s", diff)
			}
			if after := in("ip route show; ip -6 route show default"); tc.fails != "" && after != before {
				t.Errorf("after a failure:\n%s, before:\n%s", after, before)
			}
			if got := in("ip route show table 100"); !strings.HasPrefix(got, "default via 10.1.0.1") {
				t.Errorf("table 100 has %q", got)
			}
			// The routes to the interfaces' own subnets stay.
			if n := strings.Count(in("ip route show proto kernel"), "\n"); n != 2 {
				t.Errorf("%d subnet routes left of 2", n)
			}
		})
	}
}

// defaultsIn are the default routes, IPv4's first.
func defaultsIn(in func(string) string) (routes []string) {
	for line := range strings.Lines(in("ip route show default; ip -6 route show default")) {
		fields := strings.Fields(line)
		routes = append(routes, strings.Join(fields[:min(5, len(fields))], " "))
	}
	return routes
}

// advertise sends one router advertisement from the interface. The kernel takes the retransmission time from each that it
// receives, whatever it does with the router.
func advertise(t *testing.T, path, from string, retransmit time.Duration) {
	t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		link, found := net.InterfaceByName(from)
		if found != nil {
			return found
		}
		fd, opened := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if opened != nil {
			return opened
		}
		defer unix.Close(fd)
		message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(message[6:], 1800) // how many seconds it is a router for
		binary.BigEndian.PutUint32(message[12:], uint32(retransmit.Milliseconds()))
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255), // others are taken for forged
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index),
			unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Index)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A router that advertises itself on a pod's network adds no default route to those that were asked for, now or later; it does
// again where they could not be set.
func TestDefaultRoutesDespiteRouters(t *testing.T) {
	path, in := podNetns(t, fmt.Sprint("viaduct-routers-", os.Getpid()), "ip addr add fe80::99/64 dev peer1 nodad", "echo 2 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
	// hear sends advertisements until one was worked on.
	hear := func(retransmit time.Duration) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			advertise(t, path, "peer1", retransmit)
			if got := strings.TrimSpace(in("cat /proc/sys/net/ipv6/neigh/eth0/retrans_time_ms")); got == fmt.Sprint(retransmit.Milliseconds()) {
				return
			}
			if time.Since(began) > time.Minute {
				t.Fatal("the advertisement is not heard")
			}
		}
	}
	learned := []string{"default via fe80::99 dev eth0"}
	hear(2 * time.Second)
	if d := cmp.Diff(learned, defaultsIn(in)); d != "" {
		t.Fatalf("before, it learns the router: %s", d)
	}
	both := []Gateway{{"net1", netip.MustParseAddr("10.2.0.1")}, {"net1", netip.MustParseAddr("fd02::1")}}
	if err := Set(path, append(both, Gateway{"net1", netip.MustParseAddr("fd09::1")})); !errors.Is(err, ErrGateway) {
		t.Fatal(err)
	}
	if got := in("cat /proc/sys/net/ipv6/conf/*/accept_ra_defrtr"); strings.Contains(got, "0") {
		t.Errorf("after a failure, the interfaces' accept_ra_defrtr are %q", got)
	}
	if d := cmp.Diff(learned, defaultsIn(in)); d != "" {
		t.Errorf("after a failure: %s", d)
	}
	if err := Set(path, both); err != nil {
		t.Fatal(err)
	}
	hear(4 * time.Second)
	if d := cmp.Diff([]string{"default via 10.2.0.1 dev net1", "default via fd02::1 dev net1"}, defaultsIn(in)); d != "" {
		t.Errorf("after another advertisement: %s", d)
	}
	// Its own address by the advertised prefix, and other settings, are none of this.
	if got := strings.TrimSpace(in("cat /proc/sys/net/ipv6/conf/eth0/accept_ra")); got != "2" {
		t.Errorf("accept_ra is %s", got)
	}
}
