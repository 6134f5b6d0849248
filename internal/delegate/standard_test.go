package delegate

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// asked plans a pod with the annotation, whose definitions are shop/NAME, as the agent does.
func asked(t *testing.T, annotation string, definitions map[string]string) []network.Attachment {
	t.Helper()
	wants, err := network.ParseAnnotations(network.Pod{Namespace: "shop", Name: "web"}, map[string]string{network.NetworksAnnotation: annotation}, network.DefaultNamespace)
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

// What a pod's annotation asks for reaches the plugin that does it, and the kernel shows it. LEASES is host-local's folder.
func TestStandardKeysAreSeenInThePod(t *testing.T) {
	t.Run("by real plugins", func(t *testing.T) {
		n := realNode(t)
		before := links(t)
		leases := filepath.Join(t.TempDir(), "leases")
		const hostLocal = `"ipam":{"type":"host-local","dataDir":"LEASES","subnet":"10.6N.0.0/24"}`
		definitions := map[string]string{}
		for i, plugins := range []string{
			`{"type":"bridge","bridge":"br0","capabilities":{"mac":true,"ips":true},"ipam":{"type":"static"}}`,
			`{"type":"bridge","bridge":"br1","ipam":{"type":"host-local","dataDir":"LEASES","ranges":[[{"subnet":"10.6N.0.0/24"}],[{"subnet":"fd6N::/64"}]]}}`, // declares neither ips nor mac
			`{"type":"ptp",` + hostLocal + `},{"type":"tuning","capabilities":{"mac":true}}`,
			`{"type":"bridge","bridge":"br3","isGateway":true,` + hostLocal + `},{"type":"bandwidth","capabilities":{"bandwidth":true}},
				{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}},{"type":"tuning"}`,
		} {
			config := strings.NewReplacer("LEASES", leases, "6N", fmt.Sprint("6", i)).Replace(plugins)
			definitions[fmt.Sprint("n", i)] = `{"cniVersion":"1.0.0","plugins":[` + config + `]}`
		}
		annotation := `[
			{"name":"n0","ips":["10.60.0.9/24","fd60::9/64"],"mac":"02:11:22:33:44:50"},
			{"name":"n1","ips":["10.61.0.77","fd61::77"],"mac":"02:11:22:33:44:51"},
			{"name":"n2","mac":"02:11:22:33:44:52"},
			{"name":"n3","interface":"data0","cni-args":{"mtu":1400,"promisc":true},
				"bandwidth":{"ingressRate":8000000,"ingressBurst":800000,"egressRate":4000000,"egressBurst":400000},
				"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"udp"}]}]`
		plan := append([]network.Attachment{podNetwork(leases, "10.40.0.0/24")}, asked(t, annotation, definitions)...)
		if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
			t.Fatal(err)
		}
		inPod := "ip netns exec " + filepath.Base(n.netns) + " ip addr show "
		for look, want := range map[string][]string{
			inPod + "net1":     {"inet 10.60.0.9/24", "inet6 fd60::9/64", "02:11:22:33:44:50"},
			inPod + "net2":     {"inet 10.61.0.77/24", "inet6 fd61::77/64", "02:11:22:33:44:51"},
			inPod + "net3":     {"inet 10.62.0.2/", "02:11:22:33:44:52"},
			inPod + "data0":    {"inet 10.63.0.2/24", "mtu 1400", "PROMISC"},
			"tc qdisc show":    {"rate 8Mbit", "rate 4Mbit"},
			"nft list ruleset": {"udp dport 8080 dnat to 10.63.0.2:80"},
		} {
			got := sh(t, look)
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s does not show %q:\n%s", look, w, got)
				}
			}
		}
		if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, links(t)); d != "" {
			t.Errorf("links of the node: -before +after:\n%s", d)
		}
		for look, gone := range map[string]string{"tc qdisc show": "tbf", "nft list ruleset": "8080"} {
			if got := sh(t, look); strings.Contains(got, gone) {
				t.Errorf("after DEL, %s still shows %q:\n%s", look, gone, got)
			}
		}
		reserved, err := filepath.Glob(filepath.Join(leases, "*", "[1f][0d]*"))
		if inside := sh(t, "ip netns exec "+filepath.Base(n.netns)+" ip -br link show"); err != nil || reserved != nil || n.left() != nil || strings.Count(inside, "\n") != 0 {
			t.Errorf("left behind: %v, %v, in the pod %s; %v", reserved, n.left(), inside, err)
		}
	})
	t.Run("what no plugin here does", func(t *testing.T) {
		n := newNode(t)
		config := string(n.chain("a", "1.0.0", `rec-b "capabilities":{"infinibandGUID":true}`))
		plan := n.attachments(asked(t, `[{"name":"a","infiniband-guid":"02:00:00:00:00:00:00:01","ipam-claim-reference":"vm1","cni-args":{"k":"v"}}]`,
			map[string]string{"a": config})...)
		if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
			t.Fatal(err)
		}
		if effects, err := filepath.Glob(filepath.Join(n.effects, "c1-net1-rec-b")); err != nil || len(effects) != 1 {
			t.Errorf("the plugin did nothing: %v, %v", effects, err)
		}
		if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range delegatetest.Calls(t, n.journal) {
			if c.Plugin == "rec-b" {
				got = append(got, c.Verb, string(c.Stdin["runtimeConfig"]), string(c.Stdin["args"]))
			}
		}
		const guid, args = `{"infinibandGUID":"02:00:00:00:00:00:00:01"}`, `{"cni":{"ipam-claim-reference":"vm1","k":"v"}}`
		if d := cmp.Diff([]string{"ADD", guid, args, "DEL", guid, args}, got); d != "" {
			t.Error(d)
		}
		if left := n.left(); left != nil {
			t.Errorf("left behind: %v", left)
		}
	})
}

// A plugin that knows no runtimeConfig reads the MAC where Multus writes it; the networks beside it do not see it.
func TestMultusMACInArgs(t *testing.T) {
	n := newNode(t)
	def := func(name, plugin string) string { return string(n.chain(name, "1.0.0", plugin)) }
	plan := n.attachments(asked(t, `[{"name":"a","mac":"02:11:22:33:44:55"},{"name":"b"}]`,
		map[string]string{"a": def("a", `rec-b "capabilities":{"mac":true}`), "b": def("b", "rec-c")})...)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range delegatetest.Calls(t, n.journal) {
		got = append(got, c.Verb+" "+c.Plugin+" "+strings.TrimPrefix(c.Args, n.sandbox("c1").Args))
	}
	want := []string{"ADD rec-a ", "ADD rec-b ;MAC=02:11:22:33:44:55", "ADD rec-c ", "DEL rec-c ", "DEL rec-b ;MAC=02:11:22:33:44:55", "DEL rec-a "}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Whereabouts takes addresses from IP= of CNI_ARGS alone, with ADD and after. Networks with other IPAM plugins are not given
// it, nor are the networks beside.
func TestMultusIPInArgs(t *testing.T) {
	n := newNode(t)
	delegatetest.Install(t, filepath.SplitList(n.Path)[1], "whereabouts", "host-local")
	def := func(name, plugin string) string { return string(n.chain(name, "1.0.0", plugin)) }
	plan := n.attachments(asked(t, `[{"name":"a","ips":["192.0.2.7/24","2001:db8::7/64"]},{"name":"b","ips":["192.0.2.8","192.0.2.9"]},{"name":"a"}]`,
		map[string]string{"a": def("a", `rec-b "ipam":{"type":"whereabouts"}`), "b": def("b", `rec-c "ipam":{"type":"host-local"}`)})...)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context(), n.sandbox("c1")); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range delegatetest.Calls(t, n.journal) {
		got[c.IfName] = append(got[c.IfName], c.Verb+strings.TrimPrefix(c.Args, n.sandbox("c1").Args)+" "+string(c.Stdin["runtimeConfig"]))
	}
	each := func(args string) []string { return []string{"ADD" + args, "CHECK" + args, "DEL" + args} }
	want := map[string][]string{
		"eth0": each(" "),
		"net1": each(`;IP=192.0.2.7/24,2001:db8::7/64 {"ips":["192.0.2.7/24","2001:db8::7/64"]}`),
		"net2": each(` {"ips":["192.0.2.8","192.0.2.9"]}`),
		"net3": each(" "),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What a pod asks for goes where the standard says, and nowhere else: to runtimeConfig of those plugins of the network that
// declare it, with the device's id, at every verb; the id also into each plugin's own configuration. The network that replaces
// the pod's default one is no exception.
func TestStandardRuntimeConfigGoesToItsPlugins(t *testing.T) {
	n := newNode(t)
	pod := network.Pod{Namespace: "shop", Name: "web"}
	const all = ` "capabilities":{"ips":true,"mac":true,"bandwidth":true,"portMappings":true,"infinibandGUID":true,"deviceID":true}`
	config := func(name string, plugins ...string) string { return string(n.chain(name, "1.0.0", plugins...)) }
	definitions := map[network.Reference]*network.Definition{}
	for name, config := range map[string]string{
		"all":   config("all", "rec-b"+all, "rec-c", `rec-d "capabilities":{"mac":true,"deviceID":false}`),
		"some":  config("some", `rec-b "capabilities":{"bandwidth":true}`, `rec-c "capabilities":{"deviceID":true}`),
		"first": config("first", "rec-a"+all, "rec-d"),
	} {
		definitions[network.Reference{Namespace: "shop", Name: name}] = network.ParseDefinition("shop", name, "intel.com/sriov", config)
	}
	wants, err := network.ParseAnnotations(pod, map[string]string{
		network.DefaultNetworkAnnotation: `[{"name":"first","namespace":"shop","mac":"02:00:00:00:00:0a","bandwidth":{"egressBurst":8,"egressRate":1}}]`,
		network.NetworksAnnotation: `[
			{"name":"all","ips":["192.0.2.7"],"mac":"02:00:00:00:00:0b","bandwidth":{"ingressBurst":8,"ingressRate":2},"portMappings":[{"hostPort":1,"containerPort":2}],
				"infiniband-guid":"02:00:00:00:00:00:00:01","cni-args":{"mac":"x"}},
			{"name":"some","bandwidth":{"egressBurst":8,"egressRate":3}}]`,
	}, network.DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := wants.Plan(definitions, map[string][]string{"intel.com/sriov": {"0000:02:10.4", "0000:02:10.0", "0000:02:10.2"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(append([]network.Attachment{*plan.Default}, plan.Attachments...))); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context(), n.sandbox("c1")); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // by interface and plugin: device, runtimeConfig
		"eth0 rec-a": `"0000:02:10.0" {"bandwidth":{"egressBurst":8,"egressRate":1},"deviceID":"0000:02:10.0","mac":"02:00:00:00:00:0a"}`,
		"eth0 rec-d": `"0000:02:10.0" `,
		"net1 rec-b": `"0000:02:10.2" {"bandwidth":{"ingressBurst":8,"ingressRate":2},"deviceID":"0000:02:10.2","infinibandGUID":"02:00:00:00:00:00:00:01","ips":["192.0.2.7"],` +
			`"mac":"02:00:00:00:00:0b","portMappings":[{"hostPort":1,"containerPort":2,"protocol":"tcp"}]}`,
		"net1 rec-c": `"0000:02:10.2" `,
		"net1 rec-d": `"0000:02:10.2" {"mac":"02:00:00:00:00:0b"}`,
		"net2 rec-b": `"0000:02:10.4" {"bandwidth":{"egressBurst":8,"egressRate":3}}`,
		"net2 rec-c": `"0000:02:10.4" {"deviceID":"0000:02:10.4"}`,
	}
	// Beside the runtimeConfig, a plugin reads what its author wrote, what CNI puts in, and these.
	known := []string{"type", "journal", "effects", "capabilities", "name", "cniVersion", "prevResult", "runtimeConfig", "deviceID", "pciBusID", "args"}
	verbs := map[string]int{}
	for _, c := range delegatetest.Calls(t, n.journal) {
		at := c.IfName + " " + c.Plugin
		if got := string(c.Stdin["deviceID"]) + " " + string(c.Stdin["runtimeConfig"]); got != want[at] || string(c.Stdin["pciBusID"]) != string(c.Stdin["deviceID"]) {
			t.Errorf("%s of %s: got %s, want %s; pciBusID %s", c.Verb, at, got, want[at], c.Stdin["pciBusID"])
		}
		for key := range c.Stdin {
			if !slices.Contains(known, key) || key == "args" && c.IfName != "net1" {
				t.Errorf("%s of %s: the plugin reads %s: %s", c.Verb, at, key, c.Stdin[key])
			}
		}
		verbs[c.Verb]++
	}
	if d := cmp.Diff(map[string]int{"ADD": 7, "CHECK": 7, "DEL": 7}, verbs); d != "" {
		t.Error(d)
	}
}

// What the planner accepts can be carried out.
func FuzzPlannedConfiguration(f *testing.F) {
	for _, s := range []string{
		`{"type":"bridge","disableCheck":"TRUE"}`, `{"cniVersions":["1.0.0","0.4.0"],"name":"x","plugins":[{"type":"a","capabilities":{"mac":true}},{"type":"b"}]}`,
		`{"cniVersion":null,"plugins":[{"type":"a","args":{"cni":null},"ipam":{}}],"disableGC":false}`,
	} {
		f.Add(s, "02:00:00:00:00:01")
	}
	f.Fuzz(func(t *testing.T, config, mac string) {
		annotation, err := json.Marshal([]map[string]any{{"name": "a", "mac": mac, "cni-args": map[string]any{"k": 1}}})
		if err != nil {
			t.Fatal(err)
		}
		wants, err := network.ParseAnnotations(network.Pod{Namespace: "shop", Name: "web"}, map[string]string{network.NetworksAnnotation: string(annotation)}, network.DefaultNamespace)
		if err != nil {
			return
		}
		plan, err := wants.Plan(map[network.Reference]*network.Definition{{Namespace: "shop", Name: "a"}: network.ParseDefinition("shop", "a", "", config)}, nil)
		if err != nil {
			return
		}
		a := plan.Attachments[0]
		chain, err := ParseChain(a.Config)
		if err != nil {
			t.Fatalf("planned, and refused: %v: %s", err, a.Config)
		}
		for _, p := range chain.Plugins {
			if _, err := chain.stdin(p, a.Capabilities, nil); err != nil {
				t.Fatal(err)
			}
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
		"IPv4 only":                    {[]string{pod4}, []string{net4}, `["10.50.0.1"]`, []string{"10.50.0.1 net1"}, false},
		"IPv6 only":                    {[]string{pod6}, []string{net6}, `["fd50::1"]`, []string{"fd50::1 net1"}, false},
		"both":                         {[]string{pod4, pod6}, []string{net4, net6}, `["10.50.0.1","fd50::1"]`, []string{"10.50.0.1 net1", "fd50::1 net1"}, false},
		"the network's own":            {[]string{pod4, pod6}, []string{net4, net6}, `[]`, []string{"10.50.0.1 net1", "fd50::1 net1"}, false},
		"not asked":                    {[]string{pod4, pod6}, []string{net4, net6}, `null`, []string{"10.40.0.1 eth0", "fd40::1 eth0"}, false},
		"an IPv6 gateway out of reach": {[]string{pod4, pod6}, []string{net4}, `["10.50.0.1","2001:db8::1"]`, nil, true},
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
			learns := "0\n0" // whether the interfaces take advertised routers for default routes
			if tc.route == "null" {
				learns = "1\n1"
			}
			if got := sh(t, in+" cat /proc/sys/net/ipv6/conf/eth0/accept_ra_defrtr /proc/sys/net/ipv6/conf/net1/accept_ra_defrtr"); got != learns {
				t.Errorf("accept_ra_defrtr of eth0 and net1: %q, want %q", got, learns)
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
