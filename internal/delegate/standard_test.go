package delegate

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// asked plans a pod with the annotation, whose definitions are shop/NAME, as the agent does.
func asked(t *testing.T, annotation string, definitions map[string]string) []network.Attachment {
	t.Helper()
	wants, err := network.ParseAnnotations(network.Pod{Namespace: "shop", Name: "web"}, map[string]string{network.NetworksAnnotation: annotation})
	if err != nil {
		t.Fatal(err)
	}
	defs := map[network.Reference]*network.Definition{}
	for name, config := range definitions {
		defs[network.Reference{Namespace: "shop", Name: name}] = network.ParseDefinition("shop", name, "", config)
	}
	plan, err := wants.Plan(defs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plan.Attachments
}

// What a pod's annotation asks for reaches the plugin that does it, and the kernel shows it. %s is the folder for leases.
func TestStandardKeysAreSeenInThePod(t *testing.T) {
	const (
		inPod  = "ip netns exec POD "
		bridge = `"type":"bridge","bridge":"br0","isGateway":true`
		lease  = `"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.61.0.0/24"}`
		static = `"ipam":{"type":"static"}`
	)
	for name, tc := range map[string]struct {
		element, plugins string
		look             string // a command; POD is the pod's namespace
		want             []string
	}{
		"ips, by static": {
			`"ips":["10.60.0.9/24","fd60::9/64"]`, `{` + bridge + `,"capabilities":{"ips":true},` + static + `}`,
			inPod + "ip addr show net1",
			[]string{"inet 10.60.0.9/24", "inet6 fd60::9/64"},
		},
		"ips, by host-local that does not declare it": {
			`"ips":["10.61.0.77"]`, `{` + bridge + `,` + lease + `}`, inPod + "ip addr show net1", []string{"inet 10.61.0.77/24"},
		},
		"mac, by a bridge that does not declare it": {
			`"mac":"02:11:22:33:44:55"`, `{` + bridge + `,` + lease + `}`, inPod + "ip link show net1", []string{"02:11:22:33:44:55"},
		},
		"mac, by tuning": {
			`"mac":"02:11:22:33:44:66"`, `{"type":"ptp",` + lease + `},{"type":"tuning","capabilities":{"mac":true}}`,
			inPod + "ip link show net1",
			[]string{"02:11:22:33:44:66"},
		},
		"bandwidth": {
			`"bandwidth":{"ingressRate":8000000,"ingressBurst":800000,"egressRate":4000000,"egressBurst":400000}`,
			`{` + bridge + `,` + lease + `},{"type":"bandwidth","capabilities":{"bandwidth":true}}`,
			"tc qdisc show",
			[]string{"rate 8Mbit", "rate 4Mbit"},
		},
		"portMappings": {
			`"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"udp"}]`,
			`{` + bridge + `,` + lease + `},{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}`,
			"nft list ruleset",
			[]string{"udp dport 8080 dnat to 10.61.0.2:80"},
		},
		"cni-args": {
			`"cni-args":{"mtu":1400,"promisc":true}`, `{` + bridge + `,` + lease + `},{"type":"tuning"}`,
			inPod + "ip link show net1",
			[]string{"mtu 1400", "PROMISC"},
		},
		"interface": {
			`"interface":"data0"`, `{` + bridge + `,` + lease + `}`, inPod + "ip link show data0", []string{"data0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of a plugin's time is waiting, for duplicates of an IPv6 address
			n := realNode(t)
			leases := filepath.Join(t.TempDir(), "leases")
			config := strings.ReplaceAll(`{"cniVersion":"1.0.0","plugins":[`+tc.plugins+`]}`, "%s", leases)
			plan := []network.Attachment{podNetwork(leases, "10.40.0.0/24")}
			plan = append(plan, asked(t, `[{"name":"a",`+tc.element+`}]`, map[string]string{"a": config})...)
			if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
				t.Fatal(err)
			}
			got := sh(t, strings.ReplaceAll(tc.look, "POD", filepath.Base(n.netns)))
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("%s does not show %q:\n%s", tc.look, want, got)
				}
			}
			if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
				t.Fatal(err)
			}
			if n.left() != nil {
				t.Errorf("left behind: %v", n.left())
			}
		})
	}
	t.Run("what no plugin here does", func(t *testing.T) {
		n := newNode(t)
		config := string(n.chain("a", "1.0.0", `rec-b "capabilities":{"infinibandGUID":true}`))
		plan := n.attachments(asked(t, `[{"name":"a","infiniband-guid":"02:00:00:00:00:00:00:01","ipam-claim-reference":"vm1","cni-args":{"k":"v"}}]`,
			map[string]string{"a": config})...)
		if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
			t.Fatal(err)
		}
		stdin := delegatetest.Calls(t, n.journal)[1].Stdin
		got := []string{string(stdin["runtimeConfig"]), string(stdin["args"])}
		want := []string{`{"infinibandGUID":"02:00:00:00:00:00:00:01"}`, `{"cni":{"ipam-claim-reference":"vm1","k":"v"}}`}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// podNetwork is a default network on a bridge, with a gateway in each subnet.
func podNetwork(leases string, subnets ...string) network.Attachment {
	return network.Attachment{Name: "pods", IsDefault: true, Config: bridgeOn("pods", "cni0", `"isDefaultGateway":true,`, leases, subnets)}
}

func bridgeOn(name, bridge, more, leases string, subnets []string) json.RawMessage {
	var ranges []string
	for _, s := range subnets {
		ranges = append(ranges, fmt.Sprintf(`[{"subnet":%q}]`, s))
	}
	return json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"bridge","bridge":%q,"isGateway":true,%s
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[%s]}}]}`, name, bridge, more, leases, strings.Join(ranges, ",")))
}

// Afterwards the pod has exactly the default routes that were asked for, of both families, whatever it is and its network
// has; one that cannot be fails the pod, and nothing stays.
func TestStandardDefaultRouteInThePod(t *testing.T) {
	const (
		pod4, pod6 = "10.40.0.0/24", "fd40::/64"
		net4, net6 = "10.50.0.0/24", "fd50::/64"
	)
	for name, tc := range map[string]struct {
		pod, net []string
		route    string // JSON
		want     []string
		fails    bool
	}{
		"IPv4 only":                        {[]string{pod4}, []string{net4}, `["10.50.0.1"]`, []string{"10.50.0.1 net1"}, false},
		"IPv6 only":                        {[]string{pod6}, []string{net6}, `["fd50::1"]`, []string{"fd50::1 net1"}, false},
		"both":                             {[]string{pod4, pod6}, []string{net4, net6}, `["10.50.0.1","fd50::1"]`, []string{"10.50.0.1 net1", "fd50::1 net1"}, false},
		"one of both asked":                {[]string{pod4, pod6}, []string{net4, net6}, `["fd50::1"]`, []string{"fd50::1 net1"}, false},
		"IPv6 asked of an IPv4 pod":        {[]string{pod4}, []string{net6}, `["fd50::1"]`, []string{"fd50::1 net1"}, false},
		"the network's own":                {[]string{pod4, pod6}, []string{net4, net6}, `[]`, []string{"10.50.0.1 net1", "fd50::1 net1"}, false},
		"not asked":                        {[]string{pod4, pod6}, []string{net4, net6}, `null`, []string{"10.40.0.1 eth0", "fd40::1 eth0"}, false},
		"an IPv6 gateway out of reach":     {[]string{pod4, pod6}, []string{net4}, `["10.50.0.1","2001:db8::1"]`, nil, true},
		"an IPv4 gateway where is no IPv4": {[]string{pod6}, []string{net6}, `["10.50.0.1"]`, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of a plugin's time is waiting, for duplicates of an IPv6 address
			n := realNode(t)
			leases := filepath.Join(t.TempDir(), "leases")
			plan := append([]network.Attachment{podNetwork(leases, tc.pod...)},
				asked(t, `[{"name":"a","default-route":`+tc.route+`}]`, map[string]string{"a": string(bridgeOn("a", "br0", "", leases, tc.net))})...)
			rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan))
			if tc.fails {
				if err == nil || !strings.Contains(err.Error(), "default-route") || !strings.Contains(err.Error(), "shop/a") {
					t.Errorf("got %v, want it to name shop/a and default-route", err)
				}
				files, _ := filepath.Glob(filepath.Join(leases, "*", "[1f]*"))
				if links := sh(t, "ip netns exec "+filepath.Base(n.netns)+" ip -br link show"); files != nil || n.left() != nil || strings.Contains(links, "net1") {
					t.Errorf("left behind: %v %v %s", files, n.left(), links)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			in := "ip netns exec " + filepath.Base(n.netns)
			var got, gateways []string
			for line := range strings.Lines(sh(t, in+" ip -4 route show default; "+in+" ip -6 route show default")) {
				f := strings.Fields(line) // default via ADDRESS dev INTERFACE …
				got = append(got, f[2]+" "+f[4])
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("default routes: %s", d)
			}
			data, err := rec.NetworkStatus()
			if err != nil {
				t.Fatal(err)
			}
			var status []networkStatus
			if err := json.Unmarshal(data, &status); err != nil {
				t.Fatal(err)
			}
			for _, s := range status {
				for _, g := range s.Gateway {
					gateways = append(gateways, g+" "+s.Interface)
				}
			}
			if d := cmp.Diff(tc.want, gateways); d != "" {
				t.Errorf("gateways in network-status: %s", d)
			}
			if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
