package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// each lists the errors that were joined, and what was joined of those.
func each(err error) []error {
	joined, several := err.(interface{ Unwrap() []error })
	if !several {
		return []error{err}
	}
	var list []error
	for _, one := range joined.Unwrap() {
		list = append(list, each(one)...)
	}
	return list
}

// wantUserError checks that whatever is wrong is told to its author, in a message that fits an event's reader: each fault by a
// reason that is declared, with whose pod it is, the key, and what to do. What is wrong with no pod in sight, and with a whole
// file, has neither.
func wantUserError(t *testing.T, err error, pod Pod) {
	t.Helper()
	unseen := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if text := err.Error(); !errors.Is(err, ErrInvalid) || len(text) > 32<<10 || strings.ContainsFunc(text, unseen) {
		t.Fatalf("an error that is not for its author: %.1000v", err)
	}
	list := each(err)
	if len(list) > MaxFaults+1 {
		t.Fatalf("%d faults are told", len(list))
	}
	for _, one := range list {
		e, ok := errors.AsType[*Error](one)
		if !ok || !slices.Contains(declaredReasons(), e.Reason) || e.Problem == "" || e.Remedy == "" {
			t.Fatalf("an error without a reason, or without what to do: %#v", one)
		}
		if e.Pod != pod || e.Key == "" && pod != (Pod{}) {
			t.Fatalf("an error of %+v without the pod or the key: %#v", pod, e)
		}
	}
}

const accommodating = `{"cniVersion":"1.0.0","type":"sriov","ipam":{"type":"static"},
	"capabilities":{"ips":true,"portMappings":true,"bandwidth":true,"mac":true,"infinibandGUID":true}}`

func FuzzAnnotation(f *testing.F) {
	for _, s := range []string{
		"a,b/c@d", `[{"name":"a","ips":["192.0.2.1"],"default-route":[]}]`, `[{"name":"a","deviceID":"0000:02:10.0"},{"name":"a"}]`,
		`[{"name":"a","cni-args":{"x":1},"portMappings":[{"hostPort":1,"containerPort":1}],"bandwidth":{"egressRate":1,"egressBurst":1},"mac":"02:00:00:00:00:01"}]`,
		`[{"name":"a","interface":"x\u0000","ipam-claim-reference":"c","infiniband-guid":"02:00:00:00:00:00:00:01","com.example.k":null}]`,
		"[" + list(`{"name":"a","default-route":[]}`, MaxFaults+3) + "]", list("x/a", MaxFaults+2), list("-", MaxFaults+2), `[{"name":"a","namespace":"A","ips":[]}]`,
		"A,x/a,a@eth0,a@net1", `[{"name":"A"},{"name":"a","namespace":"x"},{"name":"a","ips":["192.0.2.1"],"ipam-claim-reference":"c"},{"name":"a","mac":"x","interface":"eth0"}]`,
		"[" + list(`{"name":"a","mac":"x","ips":[]}`, MaxFaults+3) + "]",
	} {
		f.Add(s, "")
		f.Add("", s)
	}
	devices := map[string][]string{"intel.com/sriov": {"0000:02:10.0", "0000:02:10.2", "0000:02:10.4", "0000:02:10.6"}}
	node, err := ParseNodeConfig([]byte(`{"defaultNetworks":["side"]}`))
	if err != nil {
		f.Fatal(err)
	}
	isolated := *node
	isolated.Policy.Isolated = true
	f.Fuzz(func(t *testing.T, networks, def string) {
		wants, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: networks, DefaultNetworkAnnotation: def}, DefaultNamespace)
		if err != nil {
			wantUserError(t, err, testPod)
			wantExplained(t, wants, nil, nil, err)
			wantEachRefused(t, node, wants, networks)
			wantEachRefused(t, &isolated, wants, networks)
			return
		}
		wantEachRefused(t, &isolated, wants, networks)
		if _, err := isolated.Apply(wants); err != nil {
			wantUserError(t, err, testPod)
		}
		if wants, err = node.Apply(wants); err != nil {
			wantUserError(t, err, testPod)
			wantExplained(t, wants, nil, nil, err)
			return
		}
		defs := map[Reference]*Definition{}
		for _, r := range wants.References() {
			defs[r] = ParseDefinition(r.Namespace, r.Name, "intel.com/sriov", accommodating)
		}
		plan, err := wants.Plan(defs, devices)
		wantExplained(t, wants, defs, devices, err)
		if err != nil {
			wantUserError(t, err, testPod)
			return
		}
		wantPlanned(t, wants, plan)
		ids := slices.Clone(devices["intel.com/sriov"])
		slices.Reverse(ids)
		again, err := wants.Plan(defs, map[string][]string{"intel.com/sriov": append(ids, ids[0])})
		if d := cmp.Diff(plan, again); err != nil || d != "" {
			t.Fatalf("with the ids in another order, and one listed twice: %v: %s", err, d)
		}
	})
}

// wantExplained checks that each network is explained, that a terminal shows it as it is, and that a network is refused if the
// pod is: each of them, where nothing is known of any definition.
func wantExplained(t *testing.T, wants Wants, defs map[Reference]*Definition, devices map[string][]string, refused error) {
	t.Helper()
	all := wants.Explain(defs, devices)
	want := len(wants.all())
	if wants.Default == nil {
		want++
	}
	if len(all) != want {
		t.Fatalf("%d networks explained, want %d", len(all), want)
	}
	for i, e := range all {
		text := strings.Join(append([]string{e.IfName, e.Network}, e.Reasons...), " ")
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || e.IfName == "" || e.Network == "" || len(e.Reasons) == 0 {
			t.Fatalf("an explanation that nobody can read: %q", text)
		}
		told := isRefused(e)
		if ours := i == 0 && wants.Default == nil; !told && !ours && defs == nil || told && refused == nil {
			t.Fatalf("is it refused (%v)? %q", refused, text)
		}
	}
}

func isRefused(e Explanation) bool { return strings.HasPrefix(e.Reasons[0], "refused: ") }

// wantEachRefused checks that a network that the node would refuse to a pod that asks for nothing else is refused beside others,
// whatever is wrong with these. The definitions are there, and take everything.
func wantEachRefused(t *testing.T, node *NodeConfig, wants Wants, networks string) {
	t.Helper()
	elements := strings.Split(networks, ",")
	if raws, err := decodeList(json.RawMessage(networks)); err == nil {
		elements = nil
		for _, raw := range raws {
			elements = append(elements, "["+string(raw)+"]")
		}
	}
	wants, _ = node.Apply(wants)
	defs := map[Reference]*Definition{}
	for _, r := range wants.References() {
		defs[r] = ParseDefinition(r.Namespace, r.Name, "", takesAll)
	}
	all := wants.Explain(defs, nil)
	for i := range wants.Networks {
		alone, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: elements[i]}, DefaultNamespace)
		_, refused := node.Apply(alone)
		bad := err != nil || refused != nil || strings.TrimSpace(elements[i]) == ""
		if e := all[len(all)-len(wants.Networks)+i]; bad && !isRefused(e) {
			t.Fatalf("%q is refused alone: %v, %v; beside others it is explained as %q", elements[i], err, refused, e.Reasons)
		}
	}
}

// wantPlanned checks that the plan is what the pod asked for: each network, with its name, its values and a device that no
// other has.
func wantPlanned(t *testing.T, wants Wants, plan *Plan) {
	t.Helper()
	all := plan.Attachments
	if wants.Default != nil {
		all = append([]Attachment{*plan.Default}, all...)
	}
	if len(all) != len(wants.all()) || (plan.Default != nil) != (wants.Default != nil) {
		t.Fatalf("%d networks asked for, %d planned", len(wants.all()), len(all))
	}
	names, devices := map[string]bool{}, map[string]bool{}
	for i, s := range wants.all() {
		a := all[i]
		if checkIfName(a.IfName) != nil || names[a.IfName] || (s.IfName != "" && s.IfName != a.IfName) || a.IsDefault != (a.IfName == defaultIfName) {
			t.Fatalf("%s for %s, which asked for %q", a.IfName, s.Network(), s.IfName)
		}
		if checkName(s.Name) != nil || checkNamespace(s.Namespace) != nil {
			t.Fatalf("a definition of the name %q", s.Network())
		}
		if a.Device == nil || devices[a.Device.ID] || (s.DeviceID != "" && s.DeviceID != a.Device.ID) {
			t.Fatalf("device %v for %s, which asked for %q", a.Device, s.Network(), s.DeviceID)
		}
		names[a.IfName], devices[a.Device.ID] = true, true
		for name, value := range s.Capabilities {
			if string(a.Capabilities[name]) != string(value) {
				t.Fatalf("%s: %s for %s", name, a.Capabilities[name], value)
			}
		}
		if d := cmp.Diff(s.DefaultRoute, a.DefaultRoute); d != "" || a.Name != s.Network() {
			t.Fatalf("%s for %s: %s", a.Name, s.Network(), d)
		}
		again := ParseDefinition("shop", "a", "", string(a.Config))
		if again.Err != nil || again.plugins[0].device != a.Device.ID {
			t.Fatalf("the planned configuration is refused, or has another device: %v: %s", again.Err, a.Config)
		}
		args, _ := decodeObject(again.plugins[0].conf["args"])
		inner, _ := decodeObject(args["cni"])
		for key, value := range s.CNIArgs {
			if key != "ipam-claim-reference" && string(inner[key]) != string(encode(value)) {
				t.Fatalf("cni-args %q: %s for %s", key, inner[key], value)
			}
		}
	}
	wantSame(t, plan)
}

// wantSame checks that the plan comes to the stub as it was made, and fits the answer.
func wantSame(t *testing.T, plan *Plan) {
	t.Helper()
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > MaxPlan+MaxAttachments*MaxAnnotation/8 {
		t.Fatalf("a plan of %d bytes", len(data))
	}
	var again Plan
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(plan, &again); d != "" {
		t.Fatalf("a plan that the stub gets otherwise: %s", d)
	}
}

// decoded is checkJSON by a decoder: slow, and surely right.
func decoded(data []byte) Reason {
	if tooDeep(data) {
		return TooDeep
	}
	if !json.Valid(data) {
		return NotJSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value func() bool // reports whether all keys differ
	value = func() bool {
		open, _ := dec.Token()
		fine, seen := true, map[string]bool{}
		for (open == json.Delim('{') || open == json.Delim('[')) && dec.More() {
			if open == json.Delim('{') {
				key, _ := dec.Token()
				fine = fine && !seen[key.(string)]
				seen[key.(string)] = true
			}
			fine = value() && fine
		}
		if open == json.Delim('{') || open == json.Delim('[') {
			_, _ = dec.Token()
		}
		return fine
	}
	if !value() {
		return DuplicateKey
	}
	return ""
}

func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{
		`{"a":{"b":1,"c":[1,{"b":2}]},"b":"a"}`, `{"a":1,"\u0061":2}`, "{\"\xff\":1,\"\xfe\":2}", `[{"a":1},{"a":2},"a","a"]`, `{"a":"\\","b":"\"","a":0}`,
		`{"\"":1,"\"":2}`, `{"a":["x","y"],"c":{"a":1},"a":3}`, strings.Repeat("[", MaxDepth+1), `"[[`, `{"a":1}{"b":1}`, `{"a,":1,"a:":2,"{":3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want, got := decoded(data), Reason("")
		if err := checkJSON(data); err != nil {
			got = err.Reason
		}
		if got != want {
			t.Fatalf("%q: got %q, a decoder says %q", data, got, want)
		}
	})
}

func FuzzDefinition(f *testing.F) {
	for _, s := range []string{
		bridgeConf, `{"plugins":[{"type":"sriov","args":{"cni":{}}}]}`, `{"cniVersions":["1.0.0"],"type":"a","capabilities":{"mac":true}}`,
		`{"cniVersion":null,"name":"","plugins":[{"type":"bridge","ipam":{"Type":"x"}},{"type":"tuning"}],"disableCheck":"true"}`,
	} {
		f.Add(s, "intel.com/sriov")
	}
	wants := Wants{Pod: testPod, Networks: []Selection{{Namespace: "shop", Name: "a", CNIArgs: object{"k": encode(1)}, Capabilities: object{"mac": encode("02:00:00:00:00:01")}}}}
	f.Fuzz(func(t *testing.T, config, resource string) {
		def := ParseDefinition("shop", "a", resource, config)
		if def.Err != nil {
			wantUserError(t, def.Err, Pod{})
		}
		plan, err := wants.Plan(nads(def), map[string][]string{def.Resource: {"0000:02:10.0"}})
		if err != nil {
			wantUserError(t, err, testPod)
			return
		}
		wantSame(t, plan)
		a := plan.Attachments[0]
		again := ParseDefinition("shop", "a", "", string(a.Config))
		if again.Err != nil {
			t.Fatalf("%v: %s", again.Err, a.Config)
		}
		if once := again.Config(); !json.Valid(once) || cmp.Diff(decodedConfig(t, once), decodedConfig(t, a.Config)) != "" {
			t.Fatalf("read again it is %s, was %s", once, a.Config)
		}
		for _, p := range again.plugins {
			if checkPluginType(p.typ) != nil || (p.ipam != "" && checkPluginType(p.ipam) != nil) {
				t.Fatalf("a plugin %q with addresses of %q", p.typ, p.ipam)
			}
		}
		if name, err := decodeString(again.list["name"]); err != nil || checkNetworkName(name) != nil {
			t.Fatalf("a network of the name %q", name)
		}
		// What is accepted is what is planned: the author's plugins in the author's order, and no device but the pod's.
		if d := cmp.Diff(def.Plugins(), again.Plugins()); d != "" || !json.Valid(a.Config) {
			t.Fatalf("%s: %s", d, a.Config)
		}
		for _, p := range again.plugins {
			if p.device != "" && p.device != "0000:02:10.0" || (def.Resource != "") != (p.device != "") && a.Device == nil {
				t.Fatalf("a plugin has the device %q: %s", p.device, a.Config)
			}
			for key := range p.conf {
				if strings.EqualFold(key, "runtimeConfig") || strings.EqualFold(key, "prevResult") {
					t.Fatalf("the author speaks for the runtime: %s", a.Config)
				}
			}
		}
	})
}

func decodedConfig(t *testing.T, data []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
