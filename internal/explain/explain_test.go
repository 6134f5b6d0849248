package explain

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

const definitions = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fast, namespace: nets, annotations: {k8s.v1.cni.cncf.io/resourceName: intel.com/sriov}}
spec:
  config: |
    {"cniVersion": "1.0.0", "plugins": [{"type": "sriov", "ipam": {"type": "host-local"}}, {"type": "tuning"}]}
---
{"kind": "List", "items": [
  {"kind": "NetworkAttachmentDefinition", "metadata": {"name": "disk"}},
  {"kind": "NetworkAttachmentDefinition", "metadata": {"name": "yaml"}, "spec": {"config": {"type": "bridge"}}}
]}
--- # a comment
kind: NetworkAttachmentDefinition
metadata: {name: main, namespace: kube-system}
spec: {config: '{"type": "bridge"}'}
`

// podWith has one device in a container and one in a sidecar; the init container's is given back before the others start.
func podWith(annotations string) string {
	return `
kind: Pod
metadata:
  name: web
  namespace: shop
  annotations: ` + annotations + `
spec:
  initContainers:
    - {name: once, resources: {limits: {intel.com/sriov: 5}}}
    - {name: sidecar, restartPolicy: Always, resources: {limits: {intel.com/sriov: "1"}}}
  containers:
    - {name: main, resources: {limits: {intel.com/sriov: 1, cpu: 500m, memory: 64Mi}}}
`
}

func explained(t *testing.T, node Node, manifest string) (string, error) {
	t.Helper()
	return explainedWith(t, node, manifest, nil)
}

// explainedWith is of a pod that has these devices, if they are not nil.
func explainedWith(t *testing.T, node Node, manifest string, devices []string) (string, error) {
	t.Helper()
	m := Manifests{}
	if err := errors.Join(m.Read([]byte(definitions), "shop"), m.Read([]byte(manifest), "shop")); err != nil {
		t.Fatal(err)
	}
	if len(m.Pods) != 1 {
		t.Fatalf("%d pods", len(m.Pods))
	}
	if devices != nil {
		m.Pods[0].Devices = map[string][]string{"intel.com/sriov": devices}
	}
	var out strings.Builder
	err := node.Explain(&out, m.Pods[0], m.Definitions)
	return out.String(), err
}

func plainNode() Node { return Node{Config: network.DefaultNodeConfig()} }

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.conf"), []byte(`{"name":"disk","type":"macvlan"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := network.ParseNodeConfig([]byte(`{"defaultNetworks":["` + dir + `"]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := explained(t, Node{Config: config, Networks: ondisk.Folder(dir)}, podWith(`{
		v1.multus-cni.io/default-network: main,
		k8s.v1.cni.cncf.io/networks: '[{"name":"fast","namespace":"nets","mac":"02:00:00:00:00:01","ips":["192.0.2.1"]},
			{"name":"fast","namespace":"nets","interface":"data0","default-route":["192.0.2.254"]},
			{"name":"disk","cni-args":{"k":1},"ipam-claim-reference":"c"}]'}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `pod shop/web
eth0            kube-system/main
                - asked for by v1.multus-cni.io/default-network
                - plugins: bridge, from the definition's spec.config
                - interface eth0: it is the default network
net1            disk
                - given by the node's configuration, defaultNetworks[0]
                - plugins: macvlan, from the file DIR/1.conf
                - interface net1: by position
net2            nets/fast
                - asked for by k8s.v1.cni.cncf.io/networks[0]
                - plugins: sriov, tuning, from the definition's spec.config
                - interface net2: by position
                - device #001 of intel.com/sriov: the next that the pod has of the resource in the definition's annotation k8s.v1.cni.cncf.io/resourceName
                - ips ["192.0.2.1"]: to sriov, which is known to take it undeclared
                - mac "02:00:00:00:00:01": to sriov and tuning, which is known to take it undeclared
data0           nets/fast
                - asked for by k8s.v1.cni.cncf.io/networks[1]
                - plugins: sriov, tuning, from the definition's spec.config
                - interface data0: asked for by name
                - device #002 of intel.com/sriov: the next that the pod has of the resource in the definition's annotation k8s.v1.cni.cncf.io/resourceName
                - the pod's default routes: here, by 192.0.2.254, and nowhere else
net4            shop/disk
                - asked for by k8s.v1.cni.cncf.io/networks[2]
                - plugins: macvlan, from the file DIR/1.conf
                - interface net4: by position
                - cni-args k: to every plugin, as args.cni
                - ipam-claim-reference c: to every plugin, as args.cni
`
	if d := cmp.Diff(strings.ReplaceAll(want, "DIR", dir), got); d != "" {
		t.Error(d)
	}
	if got, err = explained(t, plainNode(), podWith(`{}`)); err != nil || !strings.Contains(got, "eth0            the node's default network\n") || strings.Contains(got, "net1") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestExplainTheNodesDefaultNetwork(t *testing.T) {
	config, err := network.ParseNodeConfig([]byte(`{"clusterNetwork":"calico"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := explained(t, Node{Config: config}, podWith(`{}`))
	if err != nil || !strings.Contains(got, "it is what the node's configuration names: kube-system/calico") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestExplainRefusals(t *testing.T) {
	isolated := plainNode()
	isolated.Config.Policy.Isolated = true
	for name, tt := range map[string]struct {
		node     Node
		networks string
		want     []string
	}{
		"two devices, three networks": {plainNode(), "nets/fast,nets/fast,nets/fast", []string{"MissingDevice", `intel.com/sriov: "3"`, "has 2"}},
		"no such definition":          {plainNode(), "none", []string{"NoDefinition", "shop/none"}},
		"a definition of YAML":        {plainNode(), "yaml", []string{"WrongType", "not a string", "config: |"}},
		"not on this disk":            {plainNode(), "disk", []string{"NoConfig"}},
		"another's definition":        {isolated, "nets/fast", []string{"NotAllowed", "nets"}},
		"a bad annotation":            {plainNode(), "[{", []string{"NotJSON"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := explained(t, tt.node, podWith(`{k8s.v1.cni.cncf.io/networks: '`+tt.networks+`'}`))
			if !errors.Is(err, network.ErrInvalid) || strings.Contains(out, "pod shop/web\n") {
				t.Fatalf("got %q, %v", out, err)
			}
			for _, want := range append(tt.want, "pod shop/web") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

// The runtime calls no plugin for a pod on the node's own network: what its annotation asks for, right or wrong, means nothing.
func TestExplainHostNetwork(t *testing.T) {
	for _, networks := range []string{"nets/fast", "none", "[{"} {
		pod := strings.Replace(podWith(`{k8s.v1.cni.cncf.io/networks: '`+networks+`'}`), "spec:", "spec:\n  hostNetwork: true", 1)
		got, err := explained(t, plainNode(), pod)
		if err != nil || !strings.HasPrefix(got, "pod shop/web shares the node's own network (hostNetwork: true)") || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %v:\n%s", networks, err, got)
		}
	}
	m := Manifests{}
	if err := m.Read([]byte("kind: Deployment\nspec: {template: {spec: {hostNetwork: true}, metadata: {annotations: {k8s.v1.cni.cncf.io/networks: a}}}}"), "shop"); err != nil {
		t.Fatal(err)
	}
	if refs := plainNode().References(m.Pods[0]); refs != nil {
		t.Errorf("the cluster is asked for %v", refs)
	}
}

// One network that is refused hides none of the others.
func TestExplainBesideARefusal(t *testing.T) {
	got, err := explained(t, plainNode(), podWith(`{k8s.v1.cni.cncf.io/networks: 'nets/fast,none,kube-system/main@x0,nets/fast,nets/fast'}`))
	if !errors.Is(err, network.ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pod shop/web would not start", "eth0            the node's default network\n", "net1            nets/fast\n", "device #001 of intel.com/sriov",
		"net2            shop/none\n                - refused: ", "(NoDefinition)", "x0              kube-system/main\n                - asked for by k8s.v1.cni.cncf.io/networks[2]",
		"net4            nets/fast\n", "device #002 of intel.com/sriov", "net5            nets/fast\n                - refused: ", "(MissingDevice)",
	} {
		i := strings.Index(got, want)
		if i < 0 {
			t.Fatalf("it does not say %q after the others:\n%s", want, got)
		}
		got = got[i:]
	}
}

// A pod that is refused is explained as the agent plans it: which device a network would have depends on what the others name,
// and how many are lacking on all of them.
func TestExplainRefusedSideBySide(t *testing.T) {
	for name, tt := range map[string]struct {
		networks string
		want     []string // in this order
		not      string
	}{
		"a device that another network names": {
			`[{"name":"fast","namespace":"nets"},{"name":"fast","namespace":"nets","deviceID":"0000:02:10.0"},{"name":"none"}]`,
			[]string{"would not start", "net1 ", "device 0000:02:10.2 of intel.com/sriov", "net2 ", "device 0000:02:10.0 of intel.com/sriov: the annotation names it", "net3 ", "(NoDefinition)"},
			"DeviceTaken",
		},
		"devices for all, the refused ones included": {
			`[{"name":"fast","namespace":"nets","mac":"x"},{"name":"fast","namespace":"nets"},{"name":"fast","namespace":"nets"}]`,
			[]string{"would not start", "net1 ", "(BadMAC)", "net2 ", "device 0000:02:10.2", "net3 ", "refused: ", "need 3 of", "has 2", `intel.com/sriov: "3"`},
			`intel.com/sriov: "1"`,
		},
		"an interface that another has": {
			`[{"name":"fast","namespace":"nets"},{"name":"fast","namespace":"nets","interface":"net1"}]`,
			[]string{"would not start", "net1 ", "device 0000:02:10.0", "net1 ", "(InterfaceTaken)"},
			"MissingDevice",
		},
		"a name that is none": {
			`nets/fast, Shop/fast, nets/fast@lo, nets/fast`,
			[]string{"would not start", "net1 ", "device 0000:02:10.0", "net2            k8s.v1.cni.cncf.io/networks[1]", "(BadNamespace)", "net3            nets/fast", "(BadInterface)", "net4 ", "need 3 of"},
			"shop/fast",
		},
		"a namespace that is none": {`[{"name":"fast","namespace":"Nets"}]`, []string{"net1            k8s.v1.cni.cncf.io/networks[0]", "(BadNamespace)"}, "shop/fast"},
		"not a list":               {`[{`, []string{"would not start", "eth0 "}, "net1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := explainedWith(t, plainNode(), podWith(`{k8s.v1.cni.cncf.io/networks: '`+tt.networks+`'}`), []string{"0000:02:10.2", "0000:02:10.0"})
			if !errors.Is(err, network.ErrInvalid) || strings.Contains(got, tt.not) {
				t.Fatalf("%v:\n%s", err, got)
			}
			for _, want := range tt.want {
				i := strings.Index(got, want)
				if i < 0 {
					t.Fatalf("it does not say %q after the others:\n%s", want, got)
				}
				got = got[i+len(want):]
			}
		})
	}
	got, err := explained(t, plainNode(), podWith(`{v1.multus-cni.io/default-network: 'a,b', k8s.v1.cni.cncf.io/networks: 'nets/fast,,'}`))
	if err == nil || !strings.Contains(got, "eth0            v1.multus-cni.io/default-network\n                - refused: pod shop/web, key v1.multus-cni.io/default-network: ") {
		t.Errorf("%v:\n%s", err, got)
	}
}

// Each network has all that is wrong with it: also what the agent would find only later, and what is more than it tells.
func TestExplainTellsEachFault(t *testing.T) {
	isolated := plainNode()
	isolated.Config.Policy.Isolated = true
	got, err := explained(t, isolated, podWith(`{k8s.v1.cni.cncf.io/networks: '[{"name":"fast","namespace":"nets"},{"name":"yaml","mac":"x"},
		{"name":"yaml","default-route":[]},{"name":"yaml","default-route":[]},{"name":"yaml","interface":"eth0"}]'}`))
	if err == nil || !strings.Contains(err.Error(), "BadMAC") || !strings.Contains(err.Error(), "TwoDefaultRoutes") {
		t.Errorf("both faults of the annotation itself are told: %v", err)
	}
	for _, want := range []string{"net1 ", "(NotAllowed)", "net2 ", "(BadMAC)", "net3 ", "net4 ", "(TwoDefaultRoutes)", "eth0 ", "(InterfaceTaken)"} {
		i := strings.Index(got, want)
		if i < 0 {
			t.Fatalf("it does not say %q after the others:\n%s", want, got)
		}
		got = got[i+len(want):]
	}
	many := strings.TrimSuffix(strings.Repeat(`{"name":"fast","namespace":"nets","mac":"x"},`, network.MaxFaults+2), ",")
	got, err = explained(t, plainNode(), podWith(`{k8s.v1.cni.cncf.io/networks: '[`+many+`]'}`))
	if err == nil || strings.Count(err.Error(), "(BadMAC)") != network.MaxFaults || !strings.Contains(err.Error(), "2 faults more") {
		t.Errorf("the error: %v", err)
	}
	if n := strings.Count(got, "(BadMAC)"); n != network.MaxFaults+2 {
		t.Errorf("%d networks have their fault:\n%s", n, got)
	}
}

func TestReadTemplates(t *testing.T) {
	template := `{metadata: {annotations: {a: b}}, spec: {containers: [{resources: {limits: {x.org/y: 3}}}]}}`
	for kind, spec := range map[string]string{
		"Deployment": `{template: ` + template + `}`, "Job": `{template: ` + template + `}`,
		"CronJob": `{jobTemplate: {spec: {template: ` + template + `}}}`,
	} {
		m := Manifests{}
		if err := m.Read([]byte("kind: "+kind+"\nmetadata: {name: w}\nspec: "+spec), "shop"); err != nil {
			t.Fatal(err)
		}
		want := []Pod{{
			Pod: network.Pod{Namespace: "shop", Name: "w"}, Annotations: map[string]string{"a": "b"},
			Devices: map[string][]string{"x.org/y": {"#001", "#002", "#003"}},
		}}
		if d := cmp.Diff(want, m.Pods); d != "" {
			t.Errorf("%s: %s", kind, d)
		}
	}
	m := Manifests{}
	if err := m.Read([]byte("kind: Service\nspec: {selector: {a: b}}\n---\n\n---\nkind: Pod\nspec: {containers: [{resources: {limits: {x.org/y: 1000000000}}}]}"), "shop"); err != nil {
		t.Fatal(err)
	}
	if len(m.Pods) != 1 || len(m.Pods[0].Devices["x.org/y"]) != maxDevices {
		t.Errorf("got %d pods with %d devices", len(m.Pods), len(m.Pods[0].Devices["x.org/y"]))
	}
	for name, manifest := range map[string]string{
		"broken YAML":                       "kind: [\n",
		"a name that clears the screen":     `{"kind":"Pod","metadata":{"name":"\u001b[2J"}}`,
		"a namespace in a list":             `{"kind":"List","items":[{"kind":"Pod","metadata":{"namespace":"a\u202eb"}}]}`,
		"a resource of a CronJob's sidecar": `{"kind":"CronJob","spec":{"jobTemplate":{"spec":{"template":{"spec":{"initContainers":[{"restartPolicy":"Always","resources":{"limits":{"x/\u0007":1}}}]}}}}}}`,
	} {
		if err := m.Read([]byte(manifest), "shop"); err == nil || strings.ContainsAny(err.Error(), "\x1b\x07\u202e") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(definitions)
	f.Add(podWith(`{k8s.v1.cni.cncf.io/networks: nets/fast}`))
	f.Fuzz(func(t *testing.T, manifest string) {
		m := Manifests{}
		if m.Read([]byte(manifest), "shop") != nil {
			return
		}
		for _, p := range m.Pods {
			var out strings.Builder
			node := plainNode()
			err := node.Explain(&out, p, m.Definitions)
			unseen := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
			if err != nil && (!errors.Is(err, network.ErrInvalid) || strings.ContainsFunc(err.Error(), unseen)) {
				t.Fatalf("%q", err)
			}
			if strings.ContainsFunc(out.String(), unseen) {
				t.Fatalf("a terminal would act on it: %q", out.String())
			}
			if err != nil || p.HostNetwork {
				continue
			}
			// What is explained is what would be planned, interface by interface.
			wants, err := node.wants(p)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := wants.Plan(m.Definitions, p.Devices)
			if err != nil {
				t.Fatal(err)
			}
			heads := regexp.MustCompile(`(?m)^(\S+) +\S`).FindAllStringSubmatch(strings.SplitN(out.String(), "\n", 2)[1], -1)
			if len(heads) != len(plan.Attachments)+1 || heads[0][1] != "eth0" {
				t.Fatalf("%d networks planned:\n%s", len(plan.Attachments), out.String())
			}
			for i, a := range plan.Attachments {
				if heads[i+1][1] != a.IfName {
					t.Fatalf("%s is planned as %s:\n%s", a.Name, a.IfName, out.String())
				}
			}
		}
	})
}
