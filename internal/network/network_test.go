package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testPod = Pod{Namespace: "shop", Name: "till-0", UID: "11111111-2222-3333-4444-555555555555"}

const bridgeConf = `{"cniVersion":"1.0.0","name":"br","type":"bridge"}`

// nads are the definitions of most tests: parsed as the agent parses them.
func nads(defs ...*Definition) map[Reference]*Definition {
	m := map[Reference]*Definition{}
	for _, d := range defs {
		m[Reference{d.Namespace, d.Name}] = d
	}
	return m
}

func planOf(t *testing.T, annotations map[string]string, defs map[Reference]*Definition, devices map[string][]string) (*Plan, error) {
	t.Helper()
	wants, err := ParseAnnotations(testPod, annotations, DefaultNamespace)
	if err != nil {
		return nil, err
	}
	return wants.Plan(defs, devices)
}

func mustPlan(t *testing.T, networks string, defs map[Reference]*Definition, devices map[string][]string) *Plan {
	t.Helper()
	p, err := planOf(t, map[string]string{NetworksAnnotation: networks}, defs, devices)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantRefusal checks that an error is the user's to mend and says each of the words.
func wantRefusal(t *testing.T, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v, want an ErrInvalid", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q:\n%v", w, err)
		}
	}
	if strings.Contains(err.Error(), "not found") {
		t.Errorf("containerd takes %q for success of a DEL: %v", "not found", err)
	}
}

// asJSON makes two documents comparable whatever their spacing.
func asJSON(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return v
}

func TestDefinitionConfig(t *testing.T) {
	tests := map[string]struct{ config, want string }{
		"a single plugin becomes a list": {
			`{"cniVersion":"1.0.0","name":"br","type":"bridge","ipam":{"type":"host-local"}}`,
			`{"cniVersion":"1.0.0","name":"br","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}`,
		},
		"a list stays": {
			`{"cniVersion":"0.4.0","name":"x","disableCheck":true,"plugins":[{"type":"bridge"},{"type":"tuning","sysctl":{"a":"1"}}]}`,
			`{"cniVersion":"0.4.0","name":"x","disableCheck":true,"plugins":[{"type":"bridge"},{"type":"tuning","sysctl":{"a":"1"}}]}`,
		},
		"a missing name is the definition's":    {`{"cniVersion":"1.0.0","type":"bridge"}`, `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}`},
		"a missing name of a list":              {`{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`, `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}`},
		"an empty name is the definition's":     {`{"cniVersion":"1.0.0","name":"","type":"bridge"}`, `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}`},
		"a missing version is 0.1.0":            {`{"type":"bridge"}`, `{"cniVersion":"0.1.0","name":"a","plugins":[{"type":"bridge"}]}`},
		"several versions stay":                 {`{"cniVersions":["1.0.0","1.1.0"],"type":"bridge"}`, `{"cniVersions":["1.0.0","1.1.0"],"name":"a","plugins":[{"type":"bridge"}]}`},
		"numbers are not touched":               {`{"cniVersion":"1.0.0","type":"bridge","x":12345678901234567890.10}`, `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge","x":12345678901234567890.10}]}`},
		"what is the runtime's to say is taken": {`{"cniVersion":"1.0.0","type":"bridge","RuntimeConfig":{"deviceID":"0000:02:10.0"},"prevResult":{}}`, `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustPlan(t, "a", nads(ParseDefinition("shop", "a", "", tt.config)), nil)
			if d := cmp.Diff(asJSON(t, []byte(tt.want)), asJSON(t, p.Attachments[0].Config)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDefinitionRefuses(t *testing.T) {
	tests := map[string]struct {
		config string
		words  []string
	}{
		"broken JSON":                  {`{"type":`, []string{"not JSON"}},
		"a list":                       {`[]`, []string{"not an object"}},
		"null":                         {`null`, []string{"not an object"}},
		"no type":                      {`{"name":"x"}`, []string{"neither type nor plugins"}},
		"no plugins":                   {`{"plugins":[]}`, []string{"at least one"}},
		"plugins of an object":         {`{"plugins":{}}`, []string{"spec.config.plugins", "not a list"}},
		"a plugin without type":        {`{"plugins":[{"type":"bridge"},{}]}`, []string{"spec.config.plugins[1].type", "missing"}},
		"a type with a path":           {`{"type":"../../../tmp/evil"}`, []string{"spec.config.type", "not a plugin's name"}},
		"a type in the case's shadow":  {`{"type":"bridge","TYPE":"../evil"}`, []string{"TYPE"}},
		"a type of a number":           {`{"type":7}`, []string{"spec.config.type", "not a string"}},
		"itself":                       {`{"type":"meta-cni"}`, []string{"itself"}},
		"itself in a list":             {`{"plugins":[{"type":"bridge"},{"type":"meta-cni"}]}`, []string{"plugins[1].type", "itself"}},
		"the peer":                     {`{"type":"multus"}`, []string{"itself"}},
		"an IPAM type with a path":     {`{"type":"bridge","ipam":{"type":"/bin/sh"}}`, []string{"spec.config.ipam.type"}},
		"itself as IPAM":               {`{"type":"bridge","ipam":{"type":"meta-cni"}}`, []string{"spec.config.ipam.type"}},
		"a name with a slash":          {`{"name":"../x","type":"bridge"}`, []string{"spec.config.name"}},
		"a version that is none":       {`{"cniVersion":"one","type":"bridge"}`, []string{"spec.config.cniVersion"}},
		"capabilities of a list":       {`{"type":"bridge","capabilities":["mac"]}`, []string{"spec.config.capabilities"}},
		"a key twice":                  {`{"type":"bridge","type":"bridge"}`, []string{"there twice"}},
		"deep":                         {`{"type":"bridge","a":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, []string{"64 levels"}},
		"too long":                     {`{"type":"bridge","a":"` + strings.Repeat("a", MaxConfig) + `"}`, []string{"at most"}},
		"too many plugins":             {`{"plugins":[` + strings.TrimSuffix(strings.Repeat(`{"type":"bridge"},`, 17), ",") + `]}`, []string{"16 at most"}},
		"two devices":                  {`{"type":"host-device","deviceID":"0000:02:10.0","pciBusID":"0000:02:10.2"}`, []string{"two devices"}},
		"a list of itself, in its own": {`{"plugins":[{"plugins":[{"type":"bridge"}]}]}`, []string{"type", "missing"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(ParseDefinition("shop", "a", "", tt.config)), nil)
			wantRefusal(t, err, append(tt.words, "pod shop/till-0", "network shop/a", "spec.config")...)
		})
	}
}

func TestDefinitionMissing(t *testing.T) {
	_, err := planOf(t, map[string]string{NetworksAnnotation: "other/a"}, nil, nil)
	wantRefusal(t, err, "pod shop/till-0", "there is no NetworkAttachmentDefinition other/a", "create it")
}

func TestDefinitionOnDisk(t *testing.T) {
	d := ParseDefinition("shop", "a", "intel.com/sriov", " ")
	if !d.OnDisk() {
		t.Fatal("an empty spec.config means a file")
	}
	_, err := planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(d), nil)
	wantRefusal(t, err, "no spec.config", `"a"`, "shop/a")
	got := mustPlan(t, "a", nads(d.WithConfig("/x/a.conf", []byte(`{"cniVersion":"1.0.0","name":"a","type":"sriov"}`))), map[string][]string{"intel.com/sriov": {"0000:02:10.0"}})
	if d := cmp.Diff(&Device{Resource: "intel.com/sriov", ID: "0000:02:10.0"}, got.Attachments[0].Device); d != "" {
		t.Error(d)
	}
	_, err = planOf(t, map[string]string{NetworksAnnotation: "a"}, nads(d.WithConfig("/x/a.conf", []byte(`{}`))), nil)
	wantRefusal(t, err, "file /x/a.conf", "shop/a")
}

func TestCapabilities(t *testing.T) {
	const all = `{"name":"a","ips":["192.0.2.1/24"],"mac":"02:00:00:00:00:01","portMappings":[{"hostPort":1,"containerPort":2}],"bandwidth":{"ingressRate":1,"ingressBurst":1},"infiniband-guid":"02:00:00:00:00:00:00:01"}`
	declared := `{"cniVersion":"1.0.0","plugins":[{"type":"x","capabilities":{"ips":true,"mac":true,"infinibandGUID":true}},{"type":"y","capabilities":{"portMappings":true,"bandwidth":true}}]}`
	p := mustPlan(t, "["+all+"]", nads(ParseDefinition("shop", "a", "", declared)), nil)
	want := map[string]json.RawMessage{
		"ips": json.RawMessage(`["192.0.2.1/24"]`), "mac": json.RawMessage(`"02:00:00:00:00:01"`),
		"portMappings":   json.RawMessage(`[{"hostPort":1,"containerPort":2,"protocol":"tcp"}]`),
		"bandwidth":      json.RawMessage(`{"ingressBurst":1,"ingressRate":1}`),
		"infinibandGUID": json.RawMessage(`"02:00:00:00:00:00:00:01"`),
	}
	if d := cmp.Diff(want, p.Attachments[0].Capabilities); d != "" {
		t.Error(d)
	}
	for key, value := range map[string]string{
		"ips": `["192.0.2.1"]`, "mac": `"02:00:00:00:00:01"`, "portMappings": `[{"hostPort":1,"containerPort":2}]`,
		"bandwidth": `{"egressRate":1,"egressBurst":1}`, "infiniband-guid": `"02:00:00:00:00:00:00:01"`,
	} {
		t.Run(key+" undeclared", func(t *testing.T) {
			def := ParseDefinition("shop", "a", "", `{"cniVersion":"1.0.0","plugins":[{"type":"x","capabilities":{"`+key+`":false}},{"type":"y"}]}`)
			_, err := planOf(t, map[string]string{NetworksAnnotation: fmt.Sprintf(`[{"name":"a",%q:%s}]`, key, value)}, nads(def), nil)
			wantRefusal(t, err, "key "+NetworksAnnotation+"[0]."+key+":", "x, y", "capabilities", "pod shop/till-0", "network shop/a")
		})
	}
}

func TestCapabilitiesTakenUndeclared(t *testing.T) {
	tests := map[string]struct{ element, config, want string }{
		"a plugin known to take a mac": {
			`"mac":"02:00:00:00:00:01"`, `{"cniVersion":"1.0.0","name":"x","type":"tap","capabilities":{"ips":true}}`,
			`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"tap","capabilities":{"ips":true,"mac":true}}]}`,
		},
		"host-local takes ips": {
			`"ips":["192.0.2.1"]`, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"macvlan","ipam":{"type":"host-local"}},{"type":"tuning"}]}`,
			`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"macvlan","ipam":{"type":"host-local"},"capabilities":{"ips":true}},{"type":"tuning"}]}`,
		},
		"a declared one is enough": {
			`"mac":"02:00:00:00:00:01"`, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"macvlan"},{"type":"tuning","capabilities":{"mac":true}}]}`,
			`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"macvlan"},{"type":"tuning","capabilities":{"mac":true}}]}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustPlan(t, `[{"name":"a",`+tt.element+`}]`, nads(ParseDefinition("shop", "a", "", tt.config)), nil)
			if d := cmp.Diff(asJSON(t, []byte(tt.want)), asJSON(t, p.Attachments[0].Config)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCNIArgs(t *testing.T) {
	def := ParseDefinition("shop", "a", "", `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge","args":{"cni":{"k":"nad","l":1},"other":2}},{"type":"tuning"}]}`)
	p := mustPlan(t, `[{"name":"a","cni-args":{"k":"pod"}}]`, nads(def), nil)
	want := `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge","args":{"cni":{"k":"pod","l":1},"other":2}},{"type":"tuning","args":{"cni":{"k":"pod"}}}]}`
	if d := cmp.Diff(asJSON(t, []byte(want)), asJSON(t, p.Attachments[0].Config)); d != "" {
		t.Errorf("the pod's value is put over the definition's: %s", d)
	}
	again := mustPlan(t, "a", nads(def), nil)
	if strings.Contains(string(again.Attachments[0].Config), "pod") {
		t.Errorf("one pod's arguments stayed in the definition: %s", again.Attachments[0].Config)
	}
	bad := ParseDefinition("shop", "a", "", `{"type":"bridge","args":[]}`)
	_, err := planOf(t, map[string]string{NetworksAnnotation: `[{"name":"a","cni-args":{"k":1}}]`}, nads(bad), nil)
	wantRefusal(t, err, "key spec.config.args: ", "shop/a")
}

func TestDevices(t *testing.T) {
	sriov := func(name, resource string) *Definition {
		return ParseDefinition("shop", name, resource, `{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"sriov","vlan":100,"deviceID":"ffff:ff:ff.7"},{"type":"tuning"}]}`)
	}
	defs := nads(sriov("a", "intel.com/a"), sriov("a2", "intel.com/a"), sriov("b", "intel.com/b"), ParseDefinition("shop", "br", "", bridgeConf))
	devices := map[string][]string{"intel.com/a": {"0000:02:10.6", "0000:02:10.2", "0000:02:10.4", "0000:02:10.2"}, "intel.com/b": {"0000:03:10.0"}}
	want := []string{"0000:02:10.2", "", "0000:03:10.0", "0000:02:10.4", "0000:02:10.6"}
	for range 20 { // podresources answers in another order each time
		rand.Shuffle(4, func(i, j int) {
			ids := devices["intel.com/a"]
			ids[i], ids[j] = ids[j], ids[i]
		})
		p := mustPlan(t, "a,br,b,a2,a", defs, devices)
		var got []string
		for _, a := range p.Attachments {
			if a.Device == nil {
				got = append(got, "")
				continue
			}
			got = append(got, a.Device.ID)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	}
	a := mustPlan(t, "a", defs, devices).Attachments[0]
	config := `{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"sriov","vlan":100,"deviceID":"0000:02:10.2","pciBusID":"0000:02:10.2"},{"type":"tuning","deviceID":"0000:02:10.2","pciBusID":"0000:02:10.2"}]}`
	if d := cmp.Diff(asJSON(t, []byte(config)), asJSON(t, a.Config)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]json.RawMessage{"deviceID": json.RawMessage(`"0000:02:10.2"`)}, a.Capabilities); d != "" {
		t.Errorf("runtimeConfig.deviceID: %s", d)
	}
	named := mustPlan(t, `[{"name":"a"},{"name":"a","deviceID":"0000:02:10.2"}]`, defs, devices)
	if d := cmp.Diff([]*Device{{"intel.com/a", "0000:02:10.4"}, {"intel.com/a", "0000:02:10.2"}}, []*Device{named.Attachments[0].Device, named.Attachments[1].Device}); d != "" {
		t.Errorf("a device that is asked for by name is kept for that network: %s", d)
	}
}

func TestDevicesRefused(t *testing.T) {
	conf := `{"cniVersion":"1.0.0","type":"sriov"}`
	tests := map[string]struct {
		def      *Definition
		networks string
		devices  map[string][]string
		words    []string
	}{
		"none requested": {
			ParseDefinition("shop", "a", "intel.com/sriov", conf), "a", nil,
			[]string{`add intel.com/sriov: "1" to the resources.limits`, "the pod's devices: none", "init container"},
		},
		"too few": {
			ParseDefinition("shop", "a", "intel.com/sriov", conf), "a,a,a",
			map[string][]string{"intel.com/sriov": {"x", "y"}},
			[]string{`intel.com/sriov: "3"`, "has 2", "x, y"},
		},
		"another resource": {
			ParseDefinition("shop", "a", "intel.com/sriov", conf), "a",
			map[string][]string{"intel.com/other": {"x"}},
			[]string{`intel.com/sriov: "1"`, "intel.com/other (x)", "if the network is to take intel.com/other"},
		},
		"the definition names none": {
			ParseDefinition("shop", "a", "", conf), "a",
			map[string][]string{"intel.com/sriov": {"x"}},
			[]string{ResourceAnnotation + ": intel.com/sriov to the definition shop/a", "intel.com/sriov (x)"},
		},
		"the pod names another's": {
			ParseDefinition("shop", "a", "intel.com/sriov", conf), `[{"name":"a","deviceID":"0000:02:10.6"}]`,
			map[string][]string{"intel.com/sriov": {"0000:02:10.0"}},
			[]string{`"0000:02:10.6" is not the pod's`, NetworksAnnotation + "[0].deviceID"},
		},
		"the definition names another's": {
			ParseDefinition("shop", "a", "", `{"type":"host-device","PCIBusID":"0000:02:10.6"}`), "a", nil,
			[]string{`"0000:02:10.6" is not the pod's`, "key spec.config.pciBusID: "},
		},
		"one device twice": {
			ParseDefinition("shop", "a", "intel.com/sriov", conf), `[{"name":"a","deviceID":"x"},{"name":"a","deviceID":"x"}]`,
			map[string][]string{"intel.com/sriov": {"x", "y"}},
			[]string{"another network of this pod"},
		},
		"a bad resource name": {ParseDefinition("shop", "a", "sriov", conf), "a", nil, []string{ResourceAnnotation, `"sriov"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := planOf(t, map[string]string{NetworksAnnotation: tt.networks}, nads(tt.def), tt.devices)
			wantRefusal(t, err, append(tt.words, "pod shop/till-0", "network shop/a")...)
		})
	}
	two := nads(ParseDefinition("shop", "a", "intel.com/sriov", conf), ParseDefinition("shop", "b", "intel.com/sriov", conf))
	_, err := planOf(t, map[string]string{NetworksAnnotation: "a,b"}, two, map[string][]string{"intel.com/sriov": {"x"}})
	wantRefusal(t, err, "network shop/b", "need 2 of", `intel.com/sriov: "2"`, "has 1")
}

// A fault in a configuration is told with its key as it stands there, wherever that is, also where only a pod shows it.
func TestKeysOfConfigurations(t *testing.T) {
	disk := func(config string) *Definition {
		return ParseDefinition("shop", "a", "", "").WithConfig("/nets/a.conf", []byte(config))
	}
	nad := func(config string) *Definition { return ParseDefinition("shop", "a", "", config) }
	for name, tt := range map[string]struct {
		def *Definition
		key string
	}{
		"a device":                        {nad(`{"type":"host-device","deviceID":"x"}`), "spec.config.deviceID"},
		"a device by its bus":             {nad(`{"type":"host-device","deviceID":"","pciBusID":"x"}`), "spec.config.pciBusID"},
		"the device of a list of one":     {nad(`{"plugins":[{"type":"host-device","deviceID":"x"}]}`), "spec.config.plugins[0].deviceID"},
		"the device of the second plugin": {nad(`{"plugins":[{"type":"tuning"},{"type":"host-device","pciBusID":"x"}]}`), "spec.config.plugins[1].pciBusID"},
		"a device in a file":              {disk(`{"type":"host-device","deviceID":"x"}`), "file /nets/a.conf.deviceID"},
		"args":                            {nad(`{"type":"bridge","args":[]}`), "spec.config.args"},
		"args of the second plugin":       {nad(`{"plugins":[{"type":"bridge"},{"type":"tuning","args":{"cni":1}}]}`), "spec.config.plugins[1].args.cni"},
		"args in a file":                  {disk(`{"plugins":[{"type":"bridge","args":1}]}`), "file /nets/a.conf.plugins[0].args"},
		"a type in a list of one":         {nad(`{"plugins":[{"type":"../x"}]}`), "spec.config.plugins[0].type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planOf(t, map[string]string{NetworksAnnotation: `[{"name":"a","cni-args":{"k":1}}]`}, nads(tt.def), nil)
			wantRefusal(t, err, "network shop/a, key "+tt.key+": ")
		})
	}
	const delegates = `{"delegates":[{"type":"flannel"},{"plugins":[{"type":"bridge"},{"type":"host-device","deviceID":"x"}]}]}`
	_, err := given(t, delegates, testPod, nads(nad(bridgeConf)))
	wantRefusal(t, err, "key delegates[1].plugins[1].deviceID: ")
}

func TestDefaultNetwork(t *testing.T) {
	defs := nads(ParseDefinition("kube-system", "d", "intel.com/sriov", `{"cniVersion":"1.0.0","type":"sriov"}`), ParseDefinition("shop", "a", "intel.com/sriov", `{"cniVersion":"1.0.0","type":"sriov"}`))
	p, err := planOf(t, map[string]string{DefaultNetworkAnnotation: "d", NetworksAnnotation: "a"}, defs, map[string][]string{"intel.com/sriov": {"y", "x"}})
	if err != nil {
		t.Fatal(err)
	}
	type brief struct {
		Name, IfName, Device string
		IsDefault            bool
	}
	got := []brief{
		{p.Default.Name, p.Default.IfName, p.Default.Device.ID, p.Default.IsDefault},
		{p.Attachments[0].Name, p.Attachments[0].IfName, p.Attachments[0].Device.ID, p.Attachments[0].IsDefault},
	}
	if d := cmp.Diff([]brief{{"kube-system/d", "eth0", "x", true}, {"shop/a", "net1", "y", false}}, got); d != "" {
		t.Error(d)
	}
	for name, value := range map[string]string{"two": "d,d", "another interface": "d@x", "broken": "[{"} {
		t.Run(name, func(t *testing.T) {
			_, err := planOf(t, map[string]string{DefaultNetworkAnnotation: value}, defs, nil)
			wantRefusal(t, err, DefaultNetworkAnnotation, "pod shop/till-0")
		})
	}
}

func TestPlanSize(t *testing.T) {
	big := `{"cniVersion":"1.0.0","type":"bridge","x":"` + strings.Repeat("x", 200<<10) + `"}`
	_, err := planOf(t, map[string]string{NetworksAnnotation: strings.TrimSuffix(strings.Repeat("a,", 32), ",")}, nads(ParseDefinition("shop", "a", "", big)), nil)
	wantRefusal(t, err, "bytes together")
}

func BenchmarkPlan(b *testing.B) {
	defs := map[Reference]*Definition{}
	for i := range 1000 {
		d := ParseDefinition("shop", fmt.Sprintf("net-%d", i), "intel.com/sriov", `{"cniVersion":"1.0.0","type":"sriov","vlan":100,"ipam":{"type":"host-local","subnet":"192.0.2.0/24"}}`)
		defs[Reference{d.Namespace, d.Name}] = d
	}
	annotations := map[string]string{NetworksAnnotation: `[{"name":"net-1","mac":"02:00:00:00:00:01"},{"name":"net-999"}]`}
	for b.Loop() {
		wants, err := ParseAnnotations(testPod, annotations, DefaultNamespace)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := wants.Plan(defs, map[string][]string{"intel.com/sriov": {"a", "b"}}); err != nil {
			b.Fatal(err)
		}
	}
}
