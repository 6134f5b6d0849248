package network

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tests of this file are the lines of the multi-network standard: docs/standard.md has them side by side.

// takesAll declares every capability that the standard knows.
const takesAll = `{"cniVersion":"1.0.0","name":"all","type":"x","capabilities":{"ips":true,"mac":true,"portMappings":true,"bandwidth":true,"infinibandGUID":true}}`

// attached plans one pod that asks for shop/a with the keys of element, and returns that attachment.
func attached(t *testing.T, element, config string) Attachment {
	t.Helper()
	if element != "" {
		element = "," + element
	}
	return mustPlan(t, `[{"name":"a"`+element+`}]`, nads(ParseDefinition("shop", "a", "", config)), nil).Attachments[0]
}

// refused is the error for shop/a with the keys of element.
func refused(t *testing.T, element, config string) error {
	t.Helper()
	_, err := planOf(t, map[string]string{NetworksAnnotation: `[{"name":"a",` + element + `}]`}, nads(ParseDefinition("shop", "a", "", config)), nil)
	if err == nil {
		t.Fatalf("%s with %s is accepted", element, config)
	}
	return err
}

// wantCapability checks what goes to runtimeConfig, and that it goes nowhere undeclared.
func wantCapability(t *testing.T, element, capability, value string) {
	t.Helper()
	a := attached(t, element, takesAll)
	if d := cmp.Diff(map[string]json.RawMessage{capability: json.RawMessage(value)}, a.Capabilities); d != "" {
		t.Errorf("%s: runtimeConfig: %s", element, d)
	}
	wantReason(t, refused(t, element, `{"cniVersion":"1.0.0","name":"none","type":"x"}`), NoCapability)
}

// wantReasons checks that each value of a key is refused, and why.
func wantReasons(t *testing.T, key string, values map[string]Reason) {
	t.Helper()
	for value, reason := range values {
		err := refused(t, fmt.Sprintf("%q:%s", key, value), takesAll)
		wantReason(t, err, reason)
		wantRefusal(t, err, "pod shop/till-0", "network shop/a", NetworksAnnotation+"[0]."+key)
	}
}

func wantReason(t *testing.T, err error, reason Reason) {
	t.Helper()
	wantRefusal(t, err, "("+string(reason)+")")
}

func TestStandardConfigOfTheDefinition(t *testing.T) {
	got := attached(t, "", `{"cniVersion":"1.0.0","name":"n","type":"bridge","bridge":"br7"}`)
	want := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","bridge":"br7"}]}`
	if d := cmp.Diff(asJSON(t, []byte(want)), asJSON(t, got.Config)); d != "" || got.Name != "shop/a" {
		t.Errorf("%s: %s", got.Name, d)
	}
}

func TestStandardNoConfigFails(t *testing.T) {
	for _, config := range []string{"", " \n"} {
		d := ParseDefinition("shop", "a", "", config)
		if !d.OnDisk() {
			t.Errorf("%q: not looked for on disk", config)
		}
		_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(d), nil)
		wantReason(t, err, NoConfig)
	}
}

func TestStandardNameIsInjected(t *testing.T) {
	for _, config := range []string{`{"type":"bridge"}`, `{"name":"","type":"bridge"}`, `{"name":null,"plugins":[{"type":"bridge"}]}`} {
		var list struct{ Name string }
		if err := json.Unmarshal(attached(t, "", config).Config, &list); err != nil || list.Name != "a" {
			t.Errorf("%s: the name is %q, want the definition's; %v", config, list.Name, err)
		}
	}
}

func TestStandardShortForm(t *testing.T) {
	br := func(ns, name string) *Definition { return ParseDefinition(ns, name, "", bridgeConf) }
	p := mustPlan(t, "a, other/b", nads(br("shop", "a"), br("other", "b")), nil)
	if p.Attachments[0].Name != "shop/a" || p.Attachments[1].Name != "other/b" {
		t.Errorf("got %s and %s", p.Attachments[0].Name, p.Attachments[1].Name)
	}
	for value, reason := range map[string]Reason{"A": BadName, "a/b/c": BadName, "n.s/a": BadNamespace, "a,,b": NoName, "none": NoDefinition} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: value}, nads(br("shop", "a")), nil)
		wantReason(t, err, reason)
		wantRefusal(t, err, NetworksAnnotation+"[")
	}
}

func TestStandardJSONForm(t *testing.T) {
	br := func(ns, name string) *Definition { return ParseDefinition(ns, name, "", bridgeConf) }
	p := mustPlan(t, `[{"name":"a"},{"name":"b","namespace":"other"},{"name":"a","namespace":""}]`, nads(br("shop", "a"), br("other", "b")), nil)
	if p.Attachments[0].Name != "shop/a" || p.Attachments[1].Name != "other/b" || p.Attachments[2].Name != "shop/a" {
		t.Errorf("got %+v", p.Attachments)
	}
	for value, reason := range map[string]Reason{`[{}]`: MissingKey, `{"name":"a"}`: WrongType, `["a"]`: WrongType, `[{"name":"a"]`: NotJSON} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: value}, nads(br("shop", "a")), nil)
		wantReason(t, err, reason)
	}
}

func TestStandardIPs(t *testing.T) {
	wantCapability(t, `"ips":["192.0.2.1/24","2001:db8::1"]`, "ips", `["192.0.2.1/24","2001:db8::1"]`)
	wantReasons(t, "ips", map[string]Reason{`[]`: EmptyList, `"192.0.2.1"`: WrongType, `["192.0.2.256"]`: BadIP, `[1]`: WrongType, `["192.0.2.1/33"]`: BadIP})
	for _, unfit := range []string{"0.0.0.0", "::", "0.0.0.0/0", "192.0.2.1/0", "2001:db8::1/0", "224.0.0.1/24", "ff02::1", "255.255.255.255", "::ffff:224.0.0.1", "fe80::1%eth0"} {
		wantReasons(t, "ips", map[string]Reason{`["192.0.2.1","` + unfit + `"]`: BadIP})
	}
}

func TestStandardMAC(t *testing.T) {
	wantCapability(t, `"mac":"02:23:45:67:89:01"`, "mac", `"02:23:45:67:89:01"`)
	ipoib := `"80:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22"`
	wantCapability(t, `"mac":`+ipoib, "mac", ipoib)
	wantReasons(t, "mac", map[string]Reason{`"02:23:45:67:89"`: BadMAC, `"02:00:00:00:00:00:00:01"`: BadMAC, `"01:00:5e:00:00:01"`: BadMAC, `"00:00:00:00:00:00"`: BadMAC, `7`: WrongType})
}

func TestStandardInterface(t *testing.T) {
	if got := attached(t, `"interface":"data0"`, bridgeConf).IfName; got != "data0" {
		t.Errorf("got %s", got)
	}
	wantReasons(t, "interface", map[string]Reason{`"a/b"`: BadInterface, `"abcdefghijklmnop"`: BadInterface, `"a b"`: BadInterface, `"x%d"`: BadInterface, `"lo"`: BadInterface, `"all"`: BadInterface, `"default"`: BadInterface, `"a\u0007"`: BadInterface, `"eth0"`: InterfaceTaken})
}

func TestStandardCNIArgs(t *testing.T) {
	got := attached(t, `"cni-args":{"k":"pod"}`, `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","args":{"cni":{"k":"nad","l":1}}},{"type":"y"}]}`)
	want := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","args":{"cni":{"k":"pod","l":1}}},{"type":"y","args":{"cni":{"k":"pod"}}}]}`
	if d := cmp.Diff(asJSON(t, []byte(want)), asJSON(t, got.Config)); d != "" {
		t.Error(d)
	}
	wantReasons(t, "cni-args", map[string]Reason{`[]`: WrongType, `"k=v"`: WrongType})
}

func TestStandardPortMappings(t *testing.T) {
	wantCapability(t, `"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"udp"},{"hostPort":1,"containerPort":2}]`, "portMappings",
		`[{"hostPort":8080,"containerPort":80,"protocol":"udp"},{"hostPort":1,"containerPort":2,"protocol":"tcp"}]`)
	wantReasons(t, "portMappings", map[string]Reason{
		`{}`: WrongType, `[{"hostPort":0,"containerPort":1}]`: BadPort, `[{"hostPort":1}]`: MissingKey, `[{"hostPort":1,"containerPort":65536}]`: BadPort,
		`[{"hostPort":1,"containerPort":2,"protocol":"icmp"}]`: BadProtocol, `[{"port":1}]`: UnknownKey, `[{"hostPort":1,"containerPort":2,"hostIP":"x"}]`: BadIP,
	})
}

func TestStandardBandwidth(t *testing.T) {
	wantCapability(t, `"bandwidth":{"ingressRate":1000000,"ingressBurst":8000,"egressRate":2000000,"egressBurst":9000}`, "bandwidth",
		`{"egressBurst":9000,"egressRate":2000000,"ingressBurst":8000,"ingressRate":1000000}`)
	wantReasons(t, "bandwidth", map[string]Reason{`1`: WrongType, `{"ingressRate":"1M"}`: WrongType, `{"egressRate":-1}`: BadRate, `{"rate":1}`: UnknownKey, `{"egressRate":1.5}`: WrongType})
	// The largest burst, and none at all.
	for _, rates := range []string{`{"ingressBurst":34359738359,"ingressRate":1}`, `{"egressBurst":0,"egressRate":0,"ingressBurst":1,"ingressRate":1}`} {
		wantCapability(t, `"bandwidth":`+rates, "bandwidth", rates)
	}
	// What the reference plugin refuses, at DEL as at ADD. Another may take a rate alone, and that one does not look at the pod's
	// where its own configuration has any.
	const reference = `{"cniVersion":"1.0.0","name":"all","plugins":[{"type":"x"},{"type":"bandwidth","capabilities":{"bandwidth":true}%s}]}`
	attached(t, `"bandwidth":{"ingressRate":1}`, takesAll)
	attached(t, `"bandwidth":{"ingressRate":1}`, fmt.Sprintf(reference, `,"egressRate":1,"egressBurst":1`))
	for rates, key := range map[string]string{
		`{"ingressRate":1000000}`: "ingressBurst", `{"egressRate":1,"egressBurst":0}`: "egressBurst", `{"ingressBurst":8000}`: "ingressRate",
		`{"egressBurst":1,"egressRate":null}`: "egressRate", `{"ingressRate":1,"ingressBurst":1,"egressRate":1}`: "egressBurst",
		`{"ingressRate":1,"egressBurst":1}`: "ingressBurst", `{"egressRate":1,"egressBurst":34359738360}`: "egressBurst",
	} {
		err := refused(t, `"bandwidth":`+rates, fmt.Sprintf(reference, ""))
		wantReason(t, err, BadRate)
		wantRefusal(t, err, "network shop/a, key "+NetworksAnnotation+"[0].bandwidth."+key+":")
	}
}

func TestStandardDefaultRoute(t *testing.T) {
	if got := attached(t, `"default-route":["192.0.2.1","2001:db8::1"]`, bridgeConf).DefaultRoute; !cmp.Equal(got, []string{"192.0.2.1", "2001:db8::1"}) {
		t.Errorf("got %v", got)
	}
	wantReasons(t, "default-route", map[string]Reason{`"192.0.2.1"`: WrongType, `["192.0.2.0/24"]`: BadIP, `["gw"]`: BadIP})
	for _, unfit := range []string{"0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::2", "255.255.255.255", "::ffff:0.0.0.0", "fe80::1%eth0"} {
		wantReasons(t, "default-route", map[string]Reason{`["` + unfit + `"]`: BadIP})
	}
	if got := attached(t, `"default-route":["192.0.2.1","2001:db8::1","::ffff:192.0.2.1","192.0.2.1"]`, bridgeConf).DefaultRoute; !cmp.Equal(got, []string{"192.0.2.1", "2001:db8::1"}) {
		t.Errorf("a gateway twice: got %v", got)
	}
	if got := attached(t, `"default-route":["fe80::1"]`, bridgeConf).DefaultRoute; !cmp.Equal(got, []string{"fe80::1"}) {
		t.Errorf("a router's link-local address: got %v", got)
	}
	_, err := planOf(t, map[string]string{NetworksAnnotation: `[{"name":"a","default-route":["192.0.2.1"]},{"name":"a","default-route":[]}]`}, nil, nil)
	wantReason(t, err, TwoDefaultRoutes)
}

func TestStandardInfinibandGUID(t *testing.T) {
	wantCapability(t, `"infiniband-guid":"02:00:00:00:00:00:00:01"`, "infinibandGUID", `"02:00:00:00:00:00:00:01"`)
	wantReasons(t, "infiniband-guid", map[string]Reason{`"02:00:00:00:00:01"`: BadGUID, `"00:00:00:00:00:00:00:00"`: BadGUID, `1`: WrongType})
}

func TestStandardIPAMClaimReference(t *testing.T) {
	got := attached(t, `"ipam-claim-reference":"vm1.a"`, `{"cniVersion":"1.0.0","name":"n","type":"x"}`)
	want := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","args":{"cni":{"ipam-claim-reference":"vm1.a"}}}]}`
	if d := cmp.Diff(asJSON(t, []byte(want)), asJSON(t, got.Config)); d != "" {
		t.Error(d)
	}
	wantReasons(t, "ipam-claim-reference", map[string]Reason{`"A"`: BadName, `[]`: WrongType})
	if err := refused(t, `"ipam-claim-reference":"A"`, takesAll); strings.Contains(err.Error(), "efinition") || !strings.Contains(err.Error(), "IPAMClaim") {
		t.Errorf("what is it? %v", err)
	}
	wantReason(t, refused(t, `"ipam-claim-reference":"c","ips":["192.0.2.1"]`, takesAll), ClaimAndIPs)
}

func TestStandardOtherKeys(t *testing.T) {
	attached(t, `"com.example.key":{"x":1},"example.org/key":2`, bridgeConf)
	wantReasons(t, "vlan", map[string]Reason{`7`: UnknownKey})
	wantReasons(t, "MAC", map[string]Reason{`"02:00:00:00:00:01"`: UnknownKey})
}

func TestStandardSameNetworkTwice(t *testing.T) {
	p := mustPlan(t, "a,a", nads(ParseDefinition("shop", "a", "", bridgeConf)), nil)
	if len(p.Attachments) != 2 || p.Attachments[0].IfName != "net1" || p.Attachments[1].IfName != "net2" {
		t.Errorf("got %+v", p.Attachments)
	}
}

func TestStandardInterfaceNames(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "", bridgeConf))
	var names []string
	for _, a := range mustPlan(t, "a,a@data0,a", defs, nil).Attachments {
		names = append(names, a.IfName)
	}
	if d := cmp.Diff([]string{"net1", "data0", "net3"}, names); d != "" {
		t.Error(d)
	}
	for _, networks := range []string{"a@x,a@x", "a,a@net1", "a@net2,a", "a@eth0"} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: networks}, defs, nil)
		wantReason(t, err, InterfaceTaken)
	}
}

// A configuration offers a version that can be spoken, or it is refused before any of it runs.
func TestStandardVersion(t *testing.T) {
	for config, want := range map[string]string{
		`{"type":"x"}`: "0.1.0", `{"cniVersion":"1.1.0","type":"x"}`: "1.1.0", `{"cniVersion":"9.0.0","cniVersions":["0.4.0","9.0.0","1.0.0"],"type":"x"}`: "1.0.0",
	} {
		var list struct {
			CNIVersion  string
			CNIVersions []string
		}
		if err := json.Unmarshal(attached(t, "", config).Config, &list); err != nil || HighestVersion(append(list.CNIVersions, list.CNIVersion)) != want {
			t.Errorf("%s: got %v, want %s; %v", config, list, want, err)
		}
	}
	for config, key := range map[string]string{
		`{"cniVersion":"1.2.0","type":"x"}`: "cniVersion", `{"cniVersion":"0.9.0","type":"x"}`: "cniVersion", `{"cniVersions":["2.0.0"],"type":"x"}`: "cniVersions",
		`{"cniVersions":[],"cniVersion":"2.0.0","type":"x"}`: "cniVersion", `{"cniVersions":["one"],"cniVersion":"1.0.0","type":"x"}`: "cniVersions[0]",
	} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(ParseDefinition("shop", "a", "", config)), nil)
		wantReason(t, err, BadVersion)
		wantRefusal(t, err, "pod shop/till-0", "network shop/a", "spec.config."+key+":")
	}
}

// Every value that a pod asks for is taken by some plugin of the chain, or the attachment fails.
func TestStandardCapabilitiesAreChecked(t *testing.T) {
	for key, value := range map[string]string{
		"ips": `["192.0.2.1"]`, "mac": `"02:00:00:00:00:01"`, "portMappings": `[{"hostPort":1,"containerPort":2}]`,
		"bandwidth": `{"egressRate":1,"egressBurst":1}`, "infiniband-guid": `"02:00:00:00:00:00:00:01"`,
	} {
		element := fmt.Sprintf("%q:%s", key, value)
		attached(t, element, `{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"y","capabilities":{"`+strings.ReplaceAll(key, "infiniband-guid", "infinibandGUID")+`":true}}]}`)
		wantReason(t, refused(t, element, `{"cniVersion":"1.0.0","plugins":[{"type":"x"},{"type":"y","capabilities":{"other":true}}]}`), NoCapability)
	}
}

func TestStandardDevices(t *testing.T) {
	sriov := func(name, resource string) *Definition {
		return ParseDefinition("shop", name, resource, `{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"sriov"},{"type":"tuning"}]}`)
	}
	p := mustPlan(t, "b,a,a2", nads(sriov("a", "intel.com/a"), sriov("a2", "intel.com/a"), sriov("b", "intel.com/b")),
		map[string][]string{"intel.com/a": {"0000:02:10.4", "0000:02:10.2"}, "intel.com/b": {"0000:03:10.0"}})
	for i, id := range []string{"0000:03:10.0", "0000:02:10.2", "0000:02:10.4"} {
		a := p.Attachments[i]
		config := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"sriov","deviceID":%q,"pciBusID":%q},{"type":"tuning","deviceID":%q,"pciBusID":%q}]}`, id, id, id, id)
		if d := cmp.Diff(asJSON(t, []byte(config)), asJSON(t, a.Config)); d != "" {
			t.Errorf("%s: %s", a.IfName, d)
		}
		if got := string(a.Capabilities["deviceID"]); got != fmt.Sprintf("%q", id) {
			t.Errorf("%s: runtimeConfig.deviceID is %s", a.IfName, got)
		}
	}
}
