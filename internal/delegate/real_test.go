package delegate

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// realPlugins builds the reference CNI plugins, once for all tests.
var realPlugins = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(testDir, "plugins")
	build := exec.Command("go", "build", "-C", "testdata/plugins", "-o", dir+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the CNI plugins: %w: %s", err, out)
	}
	return dir, nil
})

// realNode has the reference plugins, and stands in a network namespace of its own that plays the node: bridges, links
// and rules that the plugins make are there.
func realNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	plugins, err := realPlugins()
	if err != nil {
		t.Fatal(err)
	}
	n.Path = plugins
	host := delegatetest.Netns(t)
	enter(t, host)
	for _, line := range []string{
		"ip link set lo up", "ip link add uplink0 type veth peer name uplink1", "ip link set uplink0 up", "ip link set uplink1 up",
		"ip link add spare0 type veth peer name spare1",
	} {
		sh(t, line)
	}
	return n
}

func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A realCase is a network of real plugins, and what the kernel must say of it.
type realCase struct {
	version string
	plugins string // JSON of the plugins; %s is the folder for leases
	caps    map[string]json.RawMessage
	link    string // how the interface is described by ip -d link
	mac, ip string // expected; ip without prefix
	noCheck bool   // the plugins cannot pass their own CHECK
	// look is a command in the pod, and sees what it must tell.
	look string
	sees []string
	// ask is a command on the node, tells what it answers while the pod is there, and not after.
	ask, tells string
}

func TestRealPlugins(t *testing.T) {
	for name, tc := range map[string]realCase{
		"bridge, host-local": {
			version: "1.1.0", link: "veth", ip: "10.50.0.2",
			plugins: `{"type":"bridge","bridge":"br0","isGateway":true,"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.50.0.0/24"}}`,
		},
		"bridge, static ips and mac by capability, tuning": {
			version: "1.0.0", link: "veth", ip: "10.51.0.9", mac: "02:11:22:33:44:55",
			look: "grep -H . /proc/sys/net/ipv4/conf/net1/arp_ignore", sees: []string{"arp_ignore:1"},
			plugins: `{"type":"bridge","bridge":"br1","capabilities":{"mac":true,"ips":true},"ipam":{"type":"static"}},{"type":"tuning","sysctl":{"net.ipv4.conf.IFNAME.arp_ignore":"1"}}`,
			caps:    map[string]json.RawMessage{"mac": json.RawMessage(`"02:11:22:33:44:55"`), "ips": json.RawMessage(`["10.51.0.9/24"]`)},
		},
		"ptp at 0.3.1": {
			version: "0.3.1", link: "veth", ip: "10.52.0.2",
			plugins: `{"type":"ptp","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.52.0.0/24"}}`,
		},
		"macvlan": {
			version: "0.4.0", link: "macvlan", ip: "10.53.0.2",
			plugins: `{"type":"macvlan","master":"uplink0","mode":"bridge","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.53.0.0/24"}}`,
		},
		"host-device": {
			version: "1.0.0", link: "veth", ip: "10.56.0.2",
			plugins: `{"type":"host-device","device":"spare0","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.56.0.0/24"}}`,
		},
		"bridge without IPAM": { // its CHECK looks for an IPAM plugin all the same
			version: "1.0.0", link: "veth", noCheck: true, plugins: `{"type":"bridge","bridge":"br2"}`,
		},
		"bridge, sbr": { // bridge's CHECK misses the routes that sbr has moved to another table
			noCheck: true,
			version: "1.0.0", link: "veth", ip: "10.57.0.2",
			look:    "sh -ec 'ip -4 rule show; ip -4 route show table 100'",
			sees:    []string{"from 10.57.0.2 lookup 100", "default via 10.57.0.1 dev net1", "10.57.0.0/24 dev net1"},
			plugins: `{"type":"bridge","bridge":"br3","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.57.0.0/24","gateway":"10.57.0.1"}},{"type":"sbr"}`,
		},
		"bridge, portmap": {
			version: "1.0.0", link: "veth", ip: "10.58.0.2", ask: "nft list ruleset", tells: "8080",
			plugins: `{"type":"bridge","bridge":"br4","isGateway":true,"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.58.0.0/24"}},{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}`,
			caps:    map[string]json.RawMessage{"portMappings": json.RawMessage(`[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`)},
		},
		"bridge, bandwidth, tuning": {
			version: "1.0.0", link: "veth", ip: "10.59.0.2", look: "ip link show net1", sees: []string{"mtu 1400"}, ask: "tc qdisc show", tells: "tbf",
			plugins: `{"type":"bridge","bridge":"br5","isGateway":true,"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.59.0.0/24"}},{"type":"bandwidth","capabilities":{"bandwidth":true}},{"type":"tuning","mtu":1400}`,
			caps:    map[string]json.RawMessage{"bandwidth": json.RawMessage(`{"ingressRate":8000000,"ingressBurst":8000000,"egressRate":8000000,"egressBurst":8000000}`)},
		},
	} {
		t.Run(name, func(t *testing.T) { realLife(t, realNode(t), tc) })
	}
}

// realLife is ADD, CHECK and DEL of a pod with a bridged default network and the case's network.
func realLife(t *testing.T, n *node, tc realCase) {
	t.Helper()
	before := links(t)
	leases := filepath.Join(t.TempDir(), "leases")
	plugins := tc.plugins
	if strings.Contains(plugins, "%s") {
		plugins = fmt.Sprintf(plugins, leases)
	}
	def := network.Attachment{Name: "pods", IsDefault: true, Config: json.RawMessage(fmt.Sprintf(
		`{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"isDefaultGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.40.0.0/24"}}]}`, leases))}
	one := network.Attachment{Name: "shop/one", IfName: "net1", Capabilities: tc.caps, Config: json.RawMessage(
		fmt.Sprintf(`{"cniVersion":%q,"name":"one","plugins":[%s]}`, tc.version, plugins))}
	rec, err := n.Add(t.Context(), n.sandbox("c1"), planned([]network.Attachment{def, one}))
	if err != nil {
		t.Fatal(err)
	}
	in := "ip netns exec " + filepath.Base(n.netns) + " "
	if got := sh(t, in+"ip -d link show net1"); !strings.Contains(got, tc.link) || !strings.Contains(got, tc.mac) {
		t.Errorf("want a %s with MAC %q, the pod has %s", tc.link, tc.mac, got)
	}
	if got := sh(t, in+"ip -4 addr show net1"); !strings.Contains(got, tc.ip) {
		t.Errorf("want %s on net1, the pod has %s", tc.ip, got)
	}
	for _, want := range tc.sees {
		if got := sh(t, in+tc.look); !strings.Contains(got, want) {
			t.Errorf("%s does not tell of %s: %s", tc.look, want, got)
		}
	}
	if tc.ask != "" {
		if got := sh(t, tc.ask); !strings.Contains(got, tc.tells) {
			t.Errorf("%s does not tell of %s: %s", tc.ask, tc.tells, got)
		}
	}
	checkStatus(t, n, rec, tc.ip)
	if err := n.Check(t.Context(), n.sandbox("c1")); err != nil && !tc.noCheck {
		t.Errorf("CHECK: %v", err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, links(t)); diff != "" {
		t.Errorf("links of the node: -before +after:\n%s", diff)
	}
	if tc.ask != "" {
		if got := sh(t, tc.ask); strings.Contains(got, tc.tells) {
			t.Errorf("after DEL, %s still tells of %s: %s", tc.ask, tc.tells, got)
		}
	}
	files, err := filepath.Glob(filepath.Join(leases, "*", "10.*"))
	if err != nil || files != nil || n.left() != nil {
		t.Errorf("left behind: %v %v %v", files, n.left(), err)
	}
}

// checkStatus compares what network-status tells with what the kernel has.
func checkStatus(t *testing.T, n *node, rec *Record, ip string) {
	t.Helper()
	data, err := rec.NetworkStatus()
	if err != nil {
		t.Fatal(err)
	}
	var status []networkStatus
	if err := json.Unmarshal(data, &status); err != nil {
		t.Fatal(err)
	}
	if len(status) != 2 || !status[0].Default || status[1].Default || status[0].Interface != "eth0" || status[1].Interface != "net1" {
		t.Fatalf("network-status: %s", data)
	}
	if ip != "" && !cmp.Equal(status[1].IPs, []string{ip}) {
		t.Errorf("network-status has the addresses %v, want %s", status[1].IPs, ip)
	}
	if diff := cmp.Diff([]string{"10.40.0.1"}, status[0].Gateway); diff != "" {
		t.Errorf("gateway of the default network: -want +got:\n%s", diff)
	}
	for _, s := range status {
		got := sh(t, "ip netns exec "+filepath.Base(n.netns)+" cat /sys/class/net/"+s.Interface+"/address")
		if s.MAC != "" && s.MAC != got {
			t.Errorf("network-status says that %s has the MAC %s, it has %s", s.Interface, s.MAC, got)
		}
	}
}

// links lists the node's interfaces, but for the bridges, which the plugin leaves for the next pod.
func links(t *testing.T) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(sh(t, "ip -br link show")) {
		if name := strings.Fields(line)[0]; !strings.HasPrefix(name, "br") && !strings.HasPrefix(name, "cni0") {
			out = append(out, name)
		}
	}
	return sorted(out)
}

// enter moves this test into the network namespace, and what it starts. The thread is never given back: it ends with the
// test's goroutine.
func enter(t *testing.T, netns string) {
	t.Helper()
	runtime.LockOSThread()
	f, err := os.Open(netns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}
