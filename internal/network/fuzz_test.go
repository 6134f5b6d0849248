package network

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// wantUserError checks that whatever is wrong is told to its author, in a message that fits an event's reader.
func wantUserError(t *testing.T, err error) {
	t.Helper()
	unseen := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if text := err.Error(); !errors.Is(err, ErrInvalid) || len(text) > 32<<10 || strings.ContainsFunc(text, unseen) {
		t.Fatalf("an error that is not for its author: %.1000v", err)
	}
}

const accommodating = `{"cniVersion":"1.0.0","type":"sriov","ipam":{"type":"static"},
	"capabilities":{"ips":true,"portMappings":true,"bandwidth":true,"mac":true,"infinibandGUID":true}}`

func FuzzAnnotation(f *testing.F) {
	for _, s := range []string{
		"a,b/c@d", `[{"name":"a","ips":["192.0.2.1"],"default-route":[]}]`, `[{"name":"a","deviceID":"0000:02:10.0"},{"name":"a"}]`,
		`[{"name":"a","cni-args":{"x":1},"portMappings":[{"hostPort":1,"containerPort":1}],"bandwidth":{"egressRate":1},"mac":"02:00:00:00:00:01"}]`,
		`[{"name":"a","interface":"x\u0000","ipam-claim-reference":"c","infiniband-guid":"02:00:00:00:00:00:00:01","com.example.k":null}]`,
	} {
		f.Add(s, "")
		f.Add("", s)
	}
	devices := map[string][]string{"intel.com/sriov": {"0000:02:10.0", "0000:02:10.2", "0000:02:10.4"}}
	f.Fuzz(func(t *testing.T, networks, def string) {
		wants, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: networks, DefaultNetworkAnnotation: def}, DefaultNamespace)
		if err != nil {
			wantUserError(t, err)
			return
		}
		defs := map[Reference]*Definition{}
		for _, r := range wants.References() {
			defs[r] = ParseDefinition(r.Namespace, r.Name, "intel.com/sriov", accommodating)
		}
		plan, err := wants.Plan(defs, devices)
		if err != nil {
			wantUserError(t, err)
			return
		}
		wantPlanned(t, wants, plan)
	})
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
		if checkIfName(a.IfName) != nil || names[a.IfName] || (s.IfName != "" && s.IfName != a.IfName) {
			t.Fatalf("%s for %s, which asked for %q", a.IfName, s.Network(), s.IfName)
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
	if _, err := json.Marshal(plan); err != nil {
		t.Fatal(err)
	}
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
			wantUserError(t, def.Err)
		}
		plan, err := wants.Plan(nads(def), map[string][]string{def.Resource: {"0000:02:10.0"}})
		if err != nil {
			wantUserError(t, err)
			return
		}
		a := plan.Attachments[0]
		again := ParseDefinition("shop", "a", "", string(a.Config))
		if again.Err != nil {
			t.Fatalf("%v: %s", again.Err, a.Config)
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
