package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// planned is what the agent does with a pod's annotations, where shop/a has the configuration.
func planned(config string) func(agentapi.Plan) (*network.Plan, error) {
	return func(ask agentapi.Plan) (*network.Plan, error) {
		wants, err := network.ParseAnnotations(ask.Pod, ask.Annotations, network.DefaultNamespace)
		if err != nil {
			return nil, err
		}
		a := network.Reference{Namespace: "shop", Name: "a"}
		return wants.Plan(map[network.Reference]*network.Definition{a: network.ParseDefinition("shop", "a", "", config)}, nil)
	}
}

// A hostile pod, or its network's author, gets an error that says which, and that alone: no plugin runs, and nothing stays.
func TestHostilePods(t *testing.T) {
	n := newNode(t)
	bridge := n.chain("a", "1.0.0", "rec-b")
	a := &agent{}
	a.serve(n)
	add := func(networks, config string) *types.Error {
		t.Helper()
		annotations, err := json.Marshal(map[string]string{"other": strings.Repeat("y", 10_000), networksAnnotation: networks})
		if err != nil {
			t.Fatal(err)
		}
		n.annotations, a.planner = string(annotations), planned(config)
		_, said := n.run("ADD")
		return said
	}
	if said := add("a,a", bridge); said != nil {
		t.Fatal(said)
	}
	n.ok("DEL")
	calls := len(n.trace())
	for name, tc := range map[string]struct {
		networks, config string
		reason           network.Reason
	}{
		"longer than the agent is told":    {strings.Repeat("a", agentapi.MaxFrame), bridge, network.TooLong},
		"longer than an annotation":        {strings.Repeat("a", network.MaxAnnotation+1), bridge, network.TooLong},
		"thousands of networks":            {strings.Repeat("a,", 100_000), bridge, network.TooMany},
		"deep":                             {strings.Repeat("[", 200_000), bridge, network.TooDeep},
		"a key twice":                      {`[{"name":"a","name":"b"}]`, bridge, network.DuplicateKey},
		"an interface of control bytes":    {"a@\x1b[2J", bridge, network.BadInterface},
		"a name of slashes and dots":       {"../../a", bridge, network.BadNamespace},
		"a type with a path":               {"a", n.chain("a", "1.0.0", "../bin/rec-b"), network.BadPluginType},
		"a type hidden by its case":        {"a", n.chain("a", "1.0.0", `rec-b "TYPE":"../bin/rec-c"`), network.DuplicateKey},
		"a list of itself":                 {"a", fmt.Sprintf(`{"plugins":[%s]}`, bridge), network.MissingKey},
		"a delegate to itself":             {"a", n.chain("a", "1.0.0", "rec-b", "meta-cni"), network.SelfDelegation},
		"a plugin that nobody has":         {"a", n.chain("a", "1.0.0", "rec-b", "rec-none"), network.NoPlugin},
		"an interface that is the default": {"a@eth0", bridge, network.InterfaceTaken},
	} {
		t.Run(name, func(t *testing.T) {
			said := add(tc.networks, tc.config)
			if said == nil {
				t.Fatal("the pod is started")
			}
			text := said.Error()
			if said.Code != 7 || !strings.HasPrefix(text, "pod shop/web") || !strings.HasSuffix(text, fmt.Sprintf(" (%s)", tc.reason)) {
				t.Errorf("code %d, want 7 and %s: %.1000s", said.Code, tc.reason, text)
			}
			if len(text) > 4096 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("a message of %d bytes: %.1000q", len(text), text)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
			// The default network comes before a plugin that is not there, and goes again.
			if now := n.trace(); tc.reason != network.NoPlugin && len(now) != calls {
				t.Errorf("plugins ran: %v", now[calls:])
			}
			calls = len(n.trace())
		})
	}
}
