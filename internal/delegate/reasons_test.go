package delegate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// What an author can mend and only the node can see is told as the planner tells what it sees: whose pod, which network,
// which key, what was expected and what to do. Nothing stays of the pod.
func TestReasonsOnTheNode(t *testing.T) {
	const addresses = `"result":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"/x"}],"ips":[{"interface":0,"address":"10.2.0.2/24"}]}`
	for name, tc := range map[string]struct {
		plugins []string
		ifName  string
		route   []string
		prepare string // inside the pod, which has net1 with 10.2.0.2/24 and fd02::2/64
		reason  network.Reason
		key     string
		says    []string
	}{
		"the first plugin is not installed": {
			plugins: []string{"none-such", "rec-c"}, reason: network.NoPlugin, key: "plugins[0].type", says: []string{"none-such", "CNI_PATH (/nonexistent:", "install it"},
		},
		"nor another": {
			plugins: []string{"rec-b", "none-such"}, reason: network.NoPlugin, key: "plugins[1].type", says: []string{"none-such"},
		},
		"a plugin that is this program": {
			plugins: []string{"rec-b", "rec-self"}, reason: network.SelfDelegation, key: "plugins[1].type", says: []string{"rec-self", "itself"},
		},
		"an IPAM plugin that is not installed": {
			plugins: []string{"rec-b", `macvlan "ipam":{"type":"none-such"}`}, reason: network.NoPlugin, key: "plugins[1].ipam.type", says: []string{"none-such", "install it"},
		},
		"an IPAM plugin that is this program": {
			plugins: []string{`macvlan "ipam":{"type":"rec-self"}`}, reason: network.SelfDelegation, key: "plugins[0].ipam.type", says: []string{"rec-self", "itself"},
		},
		"the name of the runtime's own interface": {
			plugins: []string{"rec-b"}, ifName: "eth0", reason: network.InterfaceTaken, key: "interface", says: []string{"eth0", "network pods"},
		},
		"a default route that nobody has a gateway for": {
			plugins: []string{"rec-b " + addresses}, route: []string{}, reason: network.NoGateway, key: "default-route", says: []string{`"default-route": [`, "ipam"},
		},
		"a gateway in no subnet of the interface": {
			plugins: []string{"rec-b"}, route: []string{"10.9.0.1"}, reason: network.GatewayOutOfReach, key: "default-route", says: []string{"10.9.0.1", "subnet"},
		},
		"an IPv6 one": {
			plugins: []string{"rec-b"}, route: []string{"10.2.0.1", "fd09::1"}, reason: network.GatewayOutOfReach, key: "default-route", says: []string{"fd09::1"},
		},
		"the pod's own IPv6 address": {
			plugins: []string{"rec-b"}, route: []string{"fd02::2"}, reason: network.GatewayOutOfReach, key: "default-route", says: []string{"fd02::2"},
		},
		"an IPv6 gateway where IPv6 is off": {
			plugins: []string{"rec-b"}, route: []string{"fd02::1"}, prepare: "echo 1 > /proc/sys/net/ipv6/conf/net1/disable_ipv6",
			reason: network.GatewayOutOfReach, key: "default-route", says: []string{"fd02::1"},
		},
		"a network that makes no interface, as for DPDK": {
			plugins: []string{"rec-b"}, route: []string{"10.2.0.1"}, prepare: "ip link del net1",
			reason: network.GatewayOutOfReach, key: "default-route", says: []string{"net1", "makes no interface"},
		},
		"an interface that is down": {
			plugins: []string{"rec-b"}, route: []string{"fe80::1"}, prepare: "ip link set net1 down",
			reason: network.GatewayOutOfReach, key: "default-route", says: []string{"fe80::1", "network is down"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := withMacvlan(t)
			dirs := filepath.SplitList(n.Path)
			self, err := os.Executable()
			if err == nil {
				err = os.Symlink(self, filepath.Join(dirs[len(dirs)-1], "rec-self"))
			}
			if err != nil {
				t.Fatal(err)
			}
			in := "ip netns exec " + filepath.Base(n.netns) + " sh -ec '%s'"
			sh(t, fmt.Sprintf(in, "ip link add net1 type veth peer name peer1; ip link set peer1 up; ip link set net1 up; "+
				"ip addr add 10.2.0.2/24 dev net1; ip addr add fd02::2/64 dev net1 nodad; ip link add eth0 type veth peer name peer0; ip link set peer0 up; ip link set eth0 up; "+
				"ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1; "+tc.prepare))
			plan := n.attachments(network.Attachment{Name: "shop/a", IfName: tc.ifName, Config: n.chain("a", "1.0.0", tc.plugins...), DefaultRoute: tc.route})
			_, err = n.Add(t.Context(), n.sandbox("c1"), planned(plan))
			e, ok := errors.AsType[*network.Error](err)
			if !ok || e.Reason != tc.reason {
				t.Fatalf("got %v, want a %s", err, tc.reason)
			}
			if e.Pod != n.sandbox("c1").Pod || e.Network != "shop/a" || e.Key != tc.key || e.Problem == "" || e.Remedy == "" {
				t.Errorf("whose fault is it? %#v", e)
			}
			told := CNIError(n.sandbox("c1").Pod, err)
			if told.Code != 7 || !strings.HasPrefix(told.Msg, "pod shop/web, network shop/a, key "+tc.key+": ") || !strings.HasSuffix(told.Msg, fmt.Sprintf(" (%s)", tc.reason)) {
				t.Errorf("code %d: %s", told.Code, told.Msg)
			}
			for _, say := range tc.says {
				if !strings.Contains(told.Msg, say) {
					t.Errorf("it does not say %q: %s", say, told.Msg)
				}
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
			if got := sh(t, fmt.Sprintf(in, "ip route show default; ip -6 route show default")); got != "default via 10.1.0.1 dev eth0" {
				t.Errorf("the default route is now %s", got)
			}
		})
	}
}

// What the annotation takes for an interface's name the kernel takes, too; what it refuses beside the names of other
// interfaces, the kernel refuses.
func TestInterfaceNamesAsTheKernelHasThem(t *testing.T) {
	n := newNode(t)
	for i, name := range []string{"all", "default", "All", "all0", "a.b", "abcdefghijklmno", "net1-2_x"} {
		_, refused := network.ParseSelections("a@"+name, "shop")
		out, err := exec.Command("ip", "-n", filepath.Base(n.netns), "link", "add", name, "type", "veth", "peer", "name", fmt.Sprint("peer", i)).CombinedOutput()
		if (refused != nil) != (err != nil) {
			t.Errorf("%s: %v; the kernel: %v, %s", name, refused, err, out)
		}
	}
}

// withMacvlan is a node with a stand-in for one of the plugins that run what their ipam.type names.
func withMacvlan(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	dirs := filepath.SplitList(n.Path)
	script := "#!/bin/sh\nexec \"${0%/*}/rec-a\"\n"
	if err := os.WriteFile(filepath.Join(dirs[len(dirs)-1], "macvlan"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// What a default network does with the key ipam is its own, as long as it is the node's: nothing is looked for.
func TestTheNodesOwnIPAM(t *testing.T) {
	for _, ipam := range []string{`{"type":"none-such"}`, `"built in"`, `null`, `{"type":7}`} {
		n := withMacvlan(t)
		own := network.Attachment{Name: "pods", Config: n.chain("pods", "1.0.0", `macvlan "ipam":`+ipam), IsDefault: true}
		if _, err := n.Add(t.Context(), n.sandbox("c1"), planned([]network.Attachment{own})); err != nil {
			t.Errorf("ipam %s: %v", ipam, err)
		}
	}
	n := withMacvlan(t)
	override := network.Attachment{Name: "kube-system/pods", Config: n.chain("pods", "1.0.0", `macvlan "ipam":{"type":"none-such"}`), IsDefault: true}
	_, err := n.Add(t.Context(), n.sandbox("c1"), planned([]network.Attachment{override}))
	if e, ok := errors.AsType[*network.Error](err); !ok || e.Reason != network.NoPlugin || e.Network != "kube-system/pods" {
		t.Errorf("a definition in its place: %v", err)
	}
}
