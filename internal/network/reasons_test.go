package network

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// declaredReasons are the constants of reasons.go.
var declaredReasons = sync.OnceValue(func() (reasons []Reason) {
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		panic(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil || name != spec.Names[0].Name {
				panic(fmt.Sprintf("the reason %s calls itself %q", spec.Names[0].Name, name))
			}
			reasons = append(reasons, Reason(name))
		}
		return true
	})
	return reasons
})

// onNode are the reasons that show when the networks are attached: internal/delegate's TestReasonsOnTheNode comes by them.
var onNode = []Reason{NoPlugin, NoGateway, GatewayOutOfReach}

// Each way to be wrong can be come by, and its error says whose pod, which network, which key, what was expected and what
// to do.
func TestEveryReason(t *testing.T) {
	elem := func(s string) string { return `[{"name":"a",` + s + `}]` }
	type request struct {
		networks, def     string // annotations
		config, resource  string // of shop/a
		devices           []string
		noNetwork         bool // the error can name none
		missing, isolated bool
		nodeFile          string
	}
	requests := map[Reason]request{
		NotJSON:           {networks: "a", config: `{`},
		TooDeep:           {networks: "a", config: `{"type":"x","a":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`},
		TooLong:           {networks: "a", config: strings.Repeat(" ", MaxConfig) + `{"type":"x"}`},
		TooMany:           {networks: strings.Repeat("a,", MaxAttachments+1), noNetwork: true},
		DuplicateKey:      {networks: "a", config: `{"type":"x","type":"y"}`},
		UnknownKey:        {networks: elem(`"vlan":1`)},
		MissingKey:        {networks: "a", config: `{"name":"x"}`},
		WrongType:         {networks: elem(`"ips":1`)},
		EmptyList:         {networks: elem(`"ips":[]`)},
		NoName:            {networks: "a,,b", noNetwork: true},
		BadName:           {networks: "Shop", noNetwork: true},
		BadNamespace:      {networks: "Shop/a", noNetwork: true},
		BadInterface:      {networks: elem(`"interface":"a b"`)},
		InterfaceTaken:    {networks: "a@x,a@x"},
		BadMAC:            {networks: elem(`"mac":"x"`)},
		BadIP:             {networks: elem(`"ips":["x"]`)},
		BadGUID:           {networks: elem(`"infiniband-guid":"x"`)},
		BadPort:           {networks: elem(`"portMappings":[{"hostPort":0}]`)},
		BadProtocol:       {networks: elem(`"portMappings":[{"protocol":"x"}]`)},
		BadRate:           {networks: elem(`"bandwidth":{"egressRate":-1}`)},
		BadDeviceID:       {networks: elem(`"deviceID":"/"`)},
		ClaimAndIPs:       {networks: elem(`"ips":["192.0.2.1"],"ipam-claim-reference":"c"`)},
		TwoDefaultRoutes:  {networks: `[{"name":"a","default-route":[]},{"name":"a","default-route":[]}]`},
		OneDefaultNetwork: {def: "d@x"},
		NoDefinition:      {networks: "a", missing: true},
		NotAllowed:        {networks: "other/a", isolated: true},
		NoConfig:          {networks: "a", config: " "},
		BadNetworkName:    {networks: "a", config: `{"name":"a/b","type":"x"}`},
		BadVersion:        {networks: "a", config: `{"cniVersion":"one","type":"x"}`},
		BadPluginType:     {networks: "a", config: `{"type":"../x"}`},
		SelfDelegation:    {networks: "a", config: `{"type":"meta-cni"}`},
		NoCapability:      {networks: elem(`"mac":"02:00:00:00:00:01"`)},
		BadResource:       {networks: "a", resource: "sriov"},
		NoResource:        {networks: "a", config: `{"type":"sriov"}`},
		MissingDevice:     {networks: "a", resource: "intel.com/sriov"},
		ForeignDevice:     {networks: elem(`"deviceID":"x"`), resource: "intel.com/sriov", devices: []string{"y"}},
		DeviceTaken:       {networks: `[{"name":"a","deviceID":"y"},{"name":"a","deviceID":"y"}]`, resource: "intel.com/sriov", devices: []string{"y", "z"}},
		TwoDevices:        {networks: "a", config: `{"type":"host-device","deviceID":"x","pciBusID":"y"}`},
		BadPath:           {nodeFile: `{"confDir":"x"}`},
		NoNodeNetwork:     {nodeFile: `{"defaultNetworks":["x"]}`},
	}
	for _, reason := range declaredReasons() {
		if slices.Contains(onNode, reason) {
			continue
		}
		t.Run(string(reason), func(t *testing.T) {
			r, ok := requests[reason]
			if !ok {
				t.Fatal("no request comes by it")
			}
			if r.config == "" {
				r.config = `{"cniVersion":"1.0.0","type":"ipvlan"}`
			}
			err := func() error {
				node := DefaultNodeConfig()
				node.Policy.Isolated = r.isolated
				if r.nodeFile != "" {
					var err error
					if node, err = ParseNodeConfig([]byte(r.nodeFile)); err != nil {
						return err
					}
				}
				wants, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: r.networks, DefaultNetworkAnnotation: r.def}, DefaultNamespace)
				if err == nil {
					wants, err = node.Apply(wants)
				}
				if err != nil {
					return err
				}
				defs := nads(ParseDefinition("shop", "a", r.resource, r.config))
				if r.missing {
					defs = nil
				}
				_, err = wants.Plan(defs, map[string][]string{"intel.com/sriov": r.devices})
				return err
			}()
			if joined, several := err.(interface{ Unwrap() []error }); several {
				err = joined.Unwrap()[0]
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != reason {
				t.Fatalf("got %v", err)
			}
			if e.Key == "" || e.Problem == "" || e.Remedy == "" {
				t.Errorf("no key, no problem or no remedy: %#v", e)
			}
			if reason != BadPath && e.Pod != testPod {
				t.Errorf("whose pod? %v", e)
			}
			if reason != BadPath && (e.Network == "") != r.noNetwork {
				t.Errorf("which network? %v", e)
			}
			if !strings.HasSuffix(e.Error(), fmt.Sprintf(" (%s)", reason)) || strings.ContainsAny(e.Error(), "\n\x1b") {
				t.Errorf("the text: %q", e.Error())
			}
		})
	}
}
