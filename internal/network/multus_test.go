package network

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tests of this file are what users of Multus rely on beyond the standard, and what we do otherwise:
// docs/standard.md has them side by side.

func TestMultusInterfaceInTheShortForm(t *testing.T) {
	p := mustPlan(t, "a@data0", nads(ParseDefinition("shop", "a", "", bridgeConf)), nil)
	if got := p.Attachments[0].IfName; got != "data0" {
		t.Errorf("got %s", got)
	}
	_, err := planOf(t, map[string]string{NetworksAnnotation: "a@x/y"}, nil, nil)
	wantReason(t, err, BadInterface)
}

func TestMultusInterfaceRequest(t *testing.T) {
	if got := attached(t, `"interfaceRequest":"data0"`, bridgeConf).IfName; got != "data0" {
		t.Errorf("got %s", got)
	}
}

func TestMultusDefaultNetworkAnnotation(t *testing.T) {
	defs := nads(ParseDefinition(DefaultNamespace, "d", "", bridgeConf), ParseDefinition("other", "d", "", bridgeConf))
	for value, want := range map[string]string{"d": "kube-system/d", "other/d": "other/d", `[{"name":"d","namespace":"other"}]`: "other/d", "d@eth0": "kube-system/d"} {
		p, err := planOf(t, map[string]string{DefaultNetworkAnnotation: value}, defs, nil)
		if err != nil || p.Default == nil || p.Default.Name != want || p.Default.IfName != "eth0" || !p.Default.IsDefault || p.Attachments != nil {
			t.Errorf("%s: got %+v, %v", value, p, err)
		}
	}
	for value, reason := range map[string]Reason{"d,d": OneDefaultNetwork, "d@x": OneDefaultNetwork, "none": NoDefinition, "A": BadName} {
		_, err := planOf(t, map[string]string{DefaultNetworkAnnotation: value}, defs, nil)
		wantReason(t, err, reason)
		wantRefusal(t, err, DefaultNetworkAnnotation, "pod shop/till-0")
	}
}

// The override's definition is where multusNamespace says, also under isolation.
func TestMultusDefaultNetworkOfItsNamespace(t *testing.T) {
	node, err := ParseNodeConfig([]byte(`{"type":"multus","multusNamespace":"infra","namespaceIsolation":true}`))
	if err != nil {
		t.Fatal(err)
	}
	for value, reason := range map[string]Reason{"d": "", "infra/d": "", "kube-system/d": NotAllowed} {
		wants, err := ParseAnnotations(testPod, map[string]string{DefaultNetworkAnnotation: value}, node.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		_, err = node.Apply(wants)
		if reason != "" {
			wantReason(t, err, reason)
		} else if err != nil || wants.Default.Network() != "infra/d" {
			t.Errorf("%s: got %s, %v", value, wants.Default.Network(), err)
		}
	}
}

// What cannot be on two networks cannot be on the override and another either.
func TestMultusDefaultNetworkBesideOthers(t *testing.T) {
	const route = `[{"name":"a","default-route":["10.0.0.1"]}]`
	_, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: route, DefaultNetworkAnnotation: route}, DefaultNamespace)
	wantReason(t, err, TwoDefaultRoutes)
	const both = `[{"name":"a","ips":["10.0.0.5"],"ipam-claim-reference":"c"}]`
	_, err = ParseAnnotations(testPod, map[string]string{DefaultNetworkAnnotation: both}, DefaultNamespace)
	wantReason(t, err, ClaimAndIPs)
}

func TestMultusDeviceIDInTheJSONForm(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "intel.com/sriov", `{"type":"sriov"}`))
	devices := map[string][]string{"intel.com/sriov": {"0000:02:10.0", "0000:02:10.2"}}
	p := mustPlan(t, `[{"name":"a","deviceID":"0000:02:10.2"},{"name":"a"}]`, defs, devices)
	if p.Attachments[0].Device.ID != "0000:02:10.2" || p.Attachments[1].Device.ID != "0000:02:10.0" {
		t.Errorf("got %v and %v", p.Attachments[0].Device, p.Attachments[1].Device)
	}
	for networks, reason := range map[string]Reason{
		`[{"name":"a","deviceID":"0000:02:10.4"}]`: ForeignDevice, `[{"name":"a","deviceID":"../x"}]`: BadDeviceID,
		`[{"name":"a","deviceID":"0000:02:10.0"},{"name":"a","deviceID":"0000:02:10.0"}]`: DeviceTaken,
	} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: networks}, defs, devices)
		wantReason(t, err, reason)
	}
	defs = nads(ParseDefinition("shop", "a", "intel.com/dpdk", `{"type":"sriov"}`))
	devices["intel.com/dpdk"] = []string{"0000:03:10.0"}
	_, err := planOf(t, map[string]string{NetworksAnnotation: `[{"name":"a","deviceID":"0000:02:10.2"}]`}, defs, devices)
	wantReason(t, err, ForeignDevice)
	wantRefusal(t, err, "one of intel.com/sriov", "one of intel.com/dpdk")
}

// Multus passes MAC= and IP= in CNI_ARGS, which some plugins take though no definition declares it.
func TestMultusMACAndIPUndeclared(t *testing.T) {
	for element, configs := range map[string][]string{
		`"mac":"02:00:00:00:00:01"`: {`{"type":"bridge"}`, `{"type":"macvlan"}`, `{"type":"ovs"}`, `{"type":"tap"}`, `{"plugins":[{"type":"x"},{"type":"tuning"}]}`},
		`"ips":["192.0.2.1"]`:       {`{"type":"x","ipam":{"type":"host-local"}}`, `{"type":"x","ipam":{"type":"static"}}`, `{"type":"x","ipam":{"type":"whereabouts"}}`},
	} {
		for _, config := range configs {
			d := ParseDefinition("shop", "a", "", string(attached(t, element, config).Config))
			if d.Err != nil || len(d.Capabilities()) != 1 {
				t.Errorf("%s with %s: the plugin is not told to take it: %v, %v", element, config, d.Capabilities(), d.Err)
			}
		}
	}
	wantReason(t, refused(t, `"mac":"02:00:00:00:00:01"`, `{"type":"ipvlan"}`), NoCapability)
	wantReason(t, refused(t, `"ips":["192.0.2.1"]`, `{"type":"bridge","ipam":{"type":"dhcp"}}`), NoCapability)
}

// Multus' decoder takes these for absent, so definitions with them work there.
func TestMultusEmptyAndNullAreAbsent(t *testing.T) {
	want := asJSON(t, []byte(`{"cniVersion":"0.1.0","name":"a","plugins":[{"type":"bridge"}]}`))
	for _, config := range []string{
		`{"cniVersion":"","type":"bridge"}`, `{"cniVersion":null,"cniVersions":null,"type":"bridge"}`, `{"cniVersions":[],"type":"bridge"}`,
		`{"name":null,"type":"bridge","plugins":null}`, `{"name":"","plugins":[{"type":"bridge"}],"disableCheck":null}`,
	} {
		if d := cmp.Diff(want, asJSON(t, attached(t, "", config).Config)); d != "" {
			t.Errorf("%s: %s", config, d)
		}
	}
	for _, config := range []string{
		`{"type":"bridge","ipam":null}`, `{"type":"bridge","ipam":{}}`, `{"type":"bridge","ipam":{"type":""}}`, `{"type":"bridge","capabilities":null}`,
		`{"type":"bridge","args":null}`, `{"type":"bridge","args":{"cni":null}}`, `{"type":"bridge","deviceID":"","pciBusID":null}`,
	} {
		attached(t, `"cni-args":{"k":1}`, config)
	}
	for _, element := range []string{
		`"mac":"","ips":null,"interface":"","namespace":"","infiniband-guid":"","deviceID":"","ipam-claim-reference":""`,
		`"portMappings":[],"bandwidth":{},"cni-args":{},"default-route":null`, `"portMappings":null,"bandwidth":{"ingressRate":null},"cni-args":null`,
		`"com.example.x":null`,
	} {
		if a := attached(t, element, bridgeConf); len(a.Capabilities) != 0 || a.DefaultRoute != nil || a.IfName != "net1" {
			t.Errorf("%s: got %+v", element, a)
		}
	}
}

// The standard has an invalid annotation ignored; Multus fails the pod, and so do we.
func TestMultusInvalidAnnotationFails(t *testing.T) {
	for _, value := range []string{"A", `[{`, `[{"name":"a","mac":"x"}]`, ","} {
		if _, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: value}, DefaultNamespace); err == nil {
			t.Errorf("%s is accepted", value)
		}
	}
}

// Multus drops a key that it does not know, and takes one in any case.
func TestMultusUnknownKeysFail(t *testing.T) {
	for element, remedy := range map[string]string{
		`"vlan":7`: "reverse domain name", `"MAC":"02:00:00:00:00:01"`: "write it mac", `"portmappings":[]`: "write it portMappings",
		`"infiniband_guid":""`: "write it infiniband-guid", `"defaultRoute":[]`: "write it default-route", `"gateway":["192.0.2.1"]`: `"default-route"`,
	} {
		err := refused(t, element, takesAll)
		wantReason(t, err, UnknownKey)
		wantRefusal(t, err, remedy, "pod shop/till-0", "network shop/a")
	}
}

// Of two keys of one name Go's decoders take the last, others the first: what is checked might not be what a plugin reads.
func TestMultusAKeyTwiceFails(t *testing.T) {
	wantReason(t, refused(t, `"mac":"02:00:00:00:00:01","mac":"02:00:00:00:00:02"`, takesAll), DuplicateKey)
	wantReason(t, refused(t, `"cni-args":{"a":{"b":1,"b":2}}`, takesAll), DuplicateKey)
	for _, config := range []string{
		`{"type":"bridge","type":"macvlan"}`, `{"type":"bridge","Type":"macvlan"}`, `{"type":"bridge","ipam":{"type":"a","TYPE":"b"}}`,
		`{"plugins":[{"type":"bridge","deviceID":"a","deviceid":"b"}]}`, `{"plugins":[{"type":"bridge"}],"Plugins":[]}`, `{"type":"bridge","x":{"y":1,"y":1}}`,
	} {
		_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(ParseDefinition("shop", "a", "", config)), nil)
		wantReason(t, err, DuplicateKey)
		wantRefusal(t, err, "pod shop/till-0", "network shop/a", "spec.config")
	}
}

// Multus starts a pod without the device that its network needs.
func TestMultusMissingDeviceFails(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "intel.com/sriov", `{"type":"sriov"}`), ParseDefinition("shop", "b", "", `{"type":"sriov"}`))
	_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, defs, nil)
	wantReason(t, err, MissingDevice)
	_, err = planOf(t, map[string]string{NetworksAnnotation: "b"}, defs, nil)
	wantReason(t, err, NoResource)
}

func TestMultusNamespaceIsolation(t *testing.T) {
	node, err := ParseNodeConfig([]byte(`{"type":"multus","namespaceIsolation":true,"globalNamespaces":"shared, default"}`))
	if err != nil {
		t.Fatal(err)
	}
	for value, allowed := range map[string]bool{"a": true, "shop/a": true, "shared/a": true, "default/a": true, "other/a": false, "kube-system/a": false} {
		wants, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: value}, DefaultNamespace)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = node.Apply(wants); allowed && err != nil {
			t.Errorf("%s: %v", value, err)
		} else if !allowed {
			wantReason(t, err, NotAllowed)
			wantRefusal(t, err, "pod shop/till-0", "network "+value, NetworksAnnotation+"[0].namespace", "shop, shared, default")
		}
	}
}

// given plans a pod that asks for shop/a on a node with the configuration.
func given(t *testing.T, config string, pod Pod, defs map[Reference]*Definition) (*Plan, error) {
	t.Helper()
	node, err := ParseNodeConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	wants, err := ParseAnnotations(pod, map[string]string{NetworksAnnotation: "shop/a"}, DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if wants, err = node.Apply(wants); err != nil {
		t.Fatal(err)
	}
	for _, ref := range wants.References() {
		if d := node.Delegate(ref); d != nil {
			defs[ref] = d
		}
	}
	return wants.Plan(defs, nil)
}

func names(p *Plan) (out []string) {
	for _, a := range p.Attachments {
		out = append(out, a.Name+" "+a.IfName)
	}
	return out
}

func TestMultusDefaultNetworks(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "", bridgeConf), ParseDefinition("multus", "side", "", bridgeConf))
	defs[Reference{Name: "/etc/nets/one.conf"}] = ParseFile("/etc/nets/one.conf", []byte(`{"name":"one","type":"bridge"}`))
	const config = `{"multusNamespace":"multus","defaultNetworks":["side","/etc/nets/one.conf"],"systemNamespaces":["infra"]}`
	p, err := given(t, config, testPod, defs)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"multus/side net1", "one net2", "shop/a net3"}, names(p)); d != "" {
		t.Error(d)
	}
	if p, err = given(t, config, Pod{Namespace: "infra", Name: "x"}, defs); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"shop/a net1"}, names(p)); d != "" {
		t.Errorf("a system namespace: %s", d)
	}
	_, err = given(t, `{"defaultNetworks":["none"]}`, testPod, defs)
	wantReason(t, err, NoNodeNetwork)
	wantRefusal(t, err, "defaultNetworks[0]", "kube-system/none", "pod shop/till-0")
}

// Networks that the node gives take the first positions: what a pod asks for by name is free, or not, beside them.
func TestMultusDefaultNetworksTakeNames(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "", bridgeConf), ParseDefinition("kube-system", "side", "", bridgeConf))
	node, err := ParseNodeConfig([]byte(`{"defaultNetworks":["side"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for networks, want := range map[string][]string{
		"a@net2,a": {"kube-system/side net1", "shop/a net2", "shop/a net3"}, // without the node's, the second would be net2
		"a@net3,a": nil,
		"a@net1":   nil,
		"a,a@net1": nil,
	} {
		wants, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: networks}, DefaultNamespace)
		if err != nil {
			t.Fatalf("%s: refused before the node's networks are known: %v", networks, err)
		}
		if wants, err = node.Apply(wants); want == nil {
			wantReason(t, err, InterfaceTaken)
			wantRefusal(t, err, "pod shop/till-0", "network shop/a", NetworksAnnotation)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", networks, err)
		}
		p, err := wants.Plan(defs, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, names(p)); d != "" {
			t.Errorf("%s: %s", networks, d)
		}
	}
}

func TestMultusDelegates(t *testing.T) {
	defs := nads(ParseDefinition("shop", "a", "", bridgeConf))
	const config = `{"name":"multus-cni-network","delegates":[{"name":"cbr0","type":"flannel","capabilities":{"portMappings":true}},{"type":"macvlan"}]}`
	for _, pod := range []Pod{testPod, {Namespace: "kube-system", Name: "dns"}} {
		p, err := given(t, config, pod, defs)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"multus-cni-network net1", "shop/a net2"}, names(p)); d != "" {
			t.Error(d)
		}
	}
	node, err := ParseNodeConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	d := node.Delegate(node.DefaultReference())
	if err := node.CheckDefault(d); err != nil || d.Name != "cbr0" || !cmp.Equal(d.Capabilities(), []string{"portMappings"}) {
		t.Errorf("the default network is %+v, %v", d, err)
	}
	if got := node.Given(); !cmp.Equal(got, []string{"multus-cni-network"}) || node.Spared() != nil {
		t.Errorf("given %v but for %v", got, node.Spared())
	}
}

func TestMultusClusterNetwork(t *testing.T) {
	for name, want := range map[string]Reference{
		"d": {Namespace: "kube-system", Name: "d"}, "On_Disk": {Namespace: "kube-system", Name: "On_Disk"},
		"/etc/cni/multus/net.d": {Name: "/etc/cni/multus/net.d"}, "/etc/cni/net.d/10-x.conflist": {Name: "/etc/cni/net.d/10-x.conflist"},
	} {
		node, err := ParseNodeConfig([]byte(`{"clusterNetwork":"` + name + `","delegates":[{"type":"flannel"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if !node.HasDefault() || node.DefaultReference() != want || !node.Names(want) || !cmp.Equal(node.Ignored, []string{"delegates"}) {
			t.Errorf("%s: got %+v", name, node)
		}
	}
	node, err := ParseNodeConfig([]byte(`{"clusterNetwork":"d"}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.CheckDefault(ParseDefinition("kube-system", "d", "", bridgeConf)); err != nil {
		t.Error(err)
	}
	for reason, d := range map[Reason]*Definition{
		NoNodeNetwork: nil, NoConfig: ParseDefinition("kube-system", "d", "", ""),
		WrongType: ParseDefinition("kube-system", "d", "", "[]"), NoResource: ParseDefinition("kube-system", "d", "intel.com/sriov", bridgeConf),
	} {
		wantReason(t, node.CheckDefault(d), reason)
	}
}

// A file as Multus' documentation has it, notes and all: nothing is refused, and what means nothing is named.
func TestMultusConfigurationFile(t *testing.T) {
	node, err := ParseNodeConfig([]byte(`{
		"cniVersion": "0.3.1", "name": "node-cni-network", "type": "meta-cni", "kubeconfig": "/etc/kubernetes/node-kubeconfig.yaml",
		"confDir": "/etc/cni/multus/net.d", "cniDir": "/var/lib/cni/multus", "binDir": "/opt/cni/bin",
		"logFile": "/var/log/multus.log", "logLevel": "debug", "logOptions": {"maxAge": 5}, "logToStderr": true,
		"capabilities": {"portMappings": true}, "readinessindicatorfile": "/run/ready", "namespaceIsolation": false, "Note1": "a note", "auxiliaryCNIChainName": "chain",
		"clusterNetwork": "defaultCRD", "defaultNetworks": ["sidecarCRD", "flannel"], "systemNamespaces": ["kube-system", "admin"],
		"multusNamespace": "kube-system", "delegates": [{"type": "weave-net", "hairpinMode": true}]}`))
	if err != nil {
		t.Fatal(err)
	}
	named := func(name, key string) Selection {
		return Selection{Namespace: "kube-system", Name: name, Key: key, FromNode: true}
	}
	cluster := named("defaultCRD", "clusterNetwork")
	want := &NodeConfig{
		Policy: Policy{Global: []string{"default"}}, Namespace: "kube-system", Cluster: &cluster,
		Defaults: []Selection{named("sidecarCRD", "defaultNetworks[0]"), named("flannel", "defaultNetworks[1]")},
		System:   []string{"kube-system", "admin"}, ConfDir: "/etc/cni/multus/net.d", BinDir: "/opt/cni/bin", StateDir: "/var/lib/cni/multus", ReadyFile: "/run/ready", LogLevel: "debug",
		Ignored: []string{"Note1", "auxiliaryCNIChainName", "delegates", "kubeconfig", "logFile", "logOptions", "logToStderr"},
	}
	if d := cmp.Diff(want, node); d != "" {
		t.Error(d)
	}
	empty, err := ParseNodeConfig([]byte(`{"plugins":[{"type":"multus","name":null,"cniVersion":null,"clusterNetwork":"","delegates":null,"systemNamespaces":[],"globalNamespaces":""}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultNodeConfig(), empty); d != "" {
		t.Errorf("what is not said is Multus' default: %s", d)
	}
}

func TestMultusConfigurationFileRefuses(t *testing.T) {
	for config, reason := range map[string]Reason{
		`{`: NotJSON, `[]`: WrongType, `{"a":1,"a":2}`: DuplicateKey, `{"namespaceIsolation":"yes"}`: WrongType, `{"globalNamespaces":["a"]}`: WrongType,
		`{"globalNamespaces":"A"}`: BadNamespace, `{"systemNamespaces":"a"}`: WrongType, `{"multusNamespace":"a/b"}`: BadNamespace,
		`{"confDir":"net.d"}`: BadPath, `{"clusterNetwork":"./x"}`: BadPath, `{"binDir":"/x\u001b[2J"}`: BadPath, `{"clusterNetwork":".."}`: BadNetworkName, `{"defaultNetworks":"a"}`: WrongType,
		`{"delegates":{}}`: WrongType, `{"delegates":[{"type":"../x"}]}`: BadPluginType, `{"delegates":[{"type":"multus"}]}`: SelfDelegation,
		`{"plugins":[{"type":"multus"},{"type":"tuning"}]}`: TooMany, `{"readinessindicatorfile":7}`: WrongType,
	} {
		_, err := ParseNodeConfig([]byte(config))
		wantReason(t, err, reason)
	}
}

func FuzzNodeConfig(f *testing.F) {
	for _, s := range []string{`{"clusterNetwork":"a","defaultNetworks":["/b"]}`, `{"plugins":[{"delegates":[{"type":"a"},{"type":"b","name":"c"}]}]}`, `{"globalNamespaces":"a,b","logLevel":"x"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, config string) {
		node, err := ParseNodeConfig([]byte(config))
		if err != nil {
			wantUserError(t, err, Pod{})
			return
		}
		want := len(node.Given())
		if slices.Contains(node.System, testPod.Namespace) {
			want = max(0, len(node.Delegates)-1)
		}
		wants, err := node.Apply(Wants{Pod: testPod})
		if err != nil {
			wantUserError(t, err, testPod)
			return
		}
		if len(wants.Node) != want {
			t.Fatalf("%d networks given, want %d", len(wants.Node), want)
		}
		for _, path := range []string{node.ConfDir, node.BinDir, node.ReadyFile} {
			if path != "" && !filepath.IsAbs(path) {
				t.Fatalf("a path that depends on who reads it: %q", path)
			}
		}
		// A pod with one more network gets all, each under its own name.
		defs := map[Reference]*Definition{}
		wants.Networks = []Selection{{Namespace: "shop", Name: "a"}}
		for _, ref := range wants.References() {
			if defs[ref] = node.Delegate(ref); defs[ref] == nil {
				defs[ref] = ParseDefinition(ref.Namespace, "a", "", bridgeConf)
			}
		}
		plan, err := wants.Plan(defs, nil)
		if err != nil {
			wantUserError(t, err, testPod)
			return
		}
		taken := map[string]bool{defaultIfName: true}
		for i, a := range plan.Attachments {
			if taken[a.IfName] || a.IfName != fmt.Sprintf("net%d", i+1) || ParseDefinition("shop", "a", "", string(a.Config)).Err != nil {
				t.Fatalf("%s %s: %s", a.IfName, a.Name, a.Config)
			}
			taken[a.IfName] = true
		}
		if len(plan.Attachments) != want+1 {
			t.Fatalf("%d networks planned, want %d", len(plan.Attachments), want+1)
		}
		wantSame(t, plan)
	})
}
