package netlinks

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

func TestSetDefaultRoutes(t *testing.T) {
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
		"same as before":     {[]string{"ip route add default via 10.2.0.1"}, net1("10.2.0.1"), []string{"default via 10.2.0.1 dev net1"}, ""},
		"unreachable":        {[]string{v4, v6}, net1("192.0.2.1"), []string{"default via 10.1.0.1 dev eth0", "default via fd01::1 dev eth0"}, "192.0.2.1"},
		"second unreachable": {[]string{v4}, net1("10.2.0.1", "192.0.2.1"), []string{"default via 10.1.0.1 dev eth0"}, "192.0.2.1"},
		"no such interface":  {[]string{v4}, []Gateway{{"net7", netip.MustParseAddr("10.2.0.1")}}, []string{"default via 10.1.0.1 dev eth0"}, "net7"},
	} {
		t.Run(name, func(t *testing.T) {
			path, in := podNetns(t, fmt.Sprint("viaduct-routes-", os.Getpid()), tc.before...)
			err := SetDefaultRoutes(path, tc.want)
			if got := fmt.Sprint(err); (err != nil) != (tc.fails != "") || !strings.Contains(got, tc.fails) {
				t.Errorf("want an error with %q, got %v", tc.fails, err)
			}
			if unreached := strings.HasPrefix(tc.fails, "192."); errors.Is(err, ErrGateway) != unreached {
				t.Errorf("is it the gateway: want %v, got %v", unreached, err)
			}
			var got []string
			for line := range strings.Lines(in("ip route show default; ip -6 route show default")) {
				fields := strings.Fields(line)
				got = append(got, strings.Join(fields[:min(5, len(fields))], " "))
			}
			if diff := cmp.Diff(tc.routes, got); diff != "" {
				t.Errorf("default routes: -want +got:\n%s", diff)
			}
			// The routes to the interfaces' own subnets stay.
			if n := strings.Count(in("ip route show proto kernel"), "\n"); n != 2 {
				t.Errorf("%d subnet routes left of 2", n)
			}
		})
	}
}
