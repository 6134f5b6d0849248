package deploy

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// What a namespace's users may define under the sample policy, and how they may not get around it.
func TestDefinitionsPolicy(t *testing.T) {
	const (
		plugins, vlans, order, trust = "may use the plugins", "may use the VLANs", "right after the type", "may not set trust"
		backslash                    = "backslash"
	)
	limited := map[string]string{"allowed-vlans": "100-199,300"}
	tests := map[string]struct {
		namespace map[string]string // its annotations
		config    string
		want      string // part of the message; empty: admitted
	}{
		"a VF on an allowed VLAN":         {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "host-local"}}`, ""},
		"the last of a range":             {limited, `{"type": "sriov", "vlan": 199}`, ""},
		"a single one":                    {limited, `{"type": "sriov", "vlan": 300}`, ""},
		"in a list, over lines":           {limited, "{\"plugins\": [\n {\"type\" : \"sriov\" ,\n \"vlan\": 150\n}]}", ""},
		"a network from the node":         {nil, "", ""},
		"no VF at all":                    {nil, `{"name": "type", "type": "static"}`, ""},
		"trust off, spoofchk on":          {limited, `{"type": "sriov", "vlan": 100, "trust": "off", "spoofchk": "on"}`, ""},
		"trust on, where allowed":         {map[string]string{"allowed-vlans": "5", "allow-trust": "true"}, `{"type": "sriov", "vlan": 5, "trust": "on", "spoofchk": "off"}`, ""},
		"leases elsewhere, where allowed": {map[string]string{"allowed-plugins": "host-local", "allow-trust": "true"}, `{"type": "host-local", "dataDir": "/run/x"}`, ""},
		"another plugin, where allowed":   {map[string]string{"allowed-plugins": "macvlan,static"}, `{"type": "macvlan"}`, ""},

		"another plugin":                     {limited, `{"type": "host-device", "device": "eth0"}`, plugins},
		"sriov, where it is not allowed":     {map[string]string{"allowed-plugins": "macvlan", "allowed-vlans": "1"}, `{"type": "sriov", "vlan": 1}`, plugins},
		"second in the list":                 {limited, `{"plugins": [{"type": "sriov", "vlan": 100}, {"type": "host-device"}]}`, plugins},
		"as IPAM":                            {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "dhcp"}}`, plugins},
		"as delegate":                        {limited, `{"type": "sriov", "vlan": 100, "delegate": {"type":"ovs"}}`, plugins},
		"type in capitals":                   {limited, `{"TYPE": "host-device"}`, plugins},
		"type with a long s and a kelvin":    {limited, `{"type": "sriov", "vlan": 100, "truſt": "on"}`, trust},
		"type by escape":                     {limited, `{"\u0074ype": "host-device"}`, backslash},
		"plugin by escape":                   {limited, `{"type": "\u0073riov"}`, backslash},
		"type twice":                         {limited, `{"type": "sriov", "vlan": 100, "type": "host-device"}`, plugins},
		"a name that ends like an allowed":   {limited, `{"type": "xsriov"}`, plugins},
		"a name with a comma":                {limited, `{"type": "host-local,sriov"}`, plugins},
		"a path":                             {limited, `{"type": "../sriov"}`, plugins},
		"type is no string":                  {limited, `{"type": ["sriov"]}`, plugins},
		"a VLAN that is not allowed":         {limited, `{"type": "sriov", "vlan": 200}`, vlans},
		"no VLAN is allowed":                 {nil, `{"type": "sriov", "vlan": 100}`, vlans},
		"a range that is none":               {map[string]string{"allowed-vlans": "all"}, `{"type": "sriov", "vlan": 100}`, vlans},
		"VLAN 0, no VLAN":                    {limited, `{"type": "sriov", "vlan": 0}`, vlans},
		"without a VLAN":                     {limited, `{"type": "sriov"}`, order},
		"its VLAN elsewhere":                 {limited, `{"type": "sriov", "ipam": {"type": "static", "vlan": 100}}`, order},
		"its VLAN before":                    {limited, `{"vlan": 100, "type": "sriov"}`, order},
		"VLAN twice":                         {limited, `{"type": "sriov", "vlan": 100, "vlan": 1}`, vlans},
		"VLAN in capitals":                   {limited, `{"type": "sriov", "vlan": 100, "VLAN": 1}`, vlans},
		"VLAN with an exponent":              {limited, `{"type": "sriov", "vlan": 1e2}`, order},
		"VLAN as a string":                   {limited, `{"type": "sriov", "vlan": "100"}`, order},
		"another VLAN of another plugin":     {map[string]string{"allowed-vlans": "1", "allowed-plugins": "bridge"}, `{"type": "bridge", "vlan": 2}`, vlans},
		"trust":                              {limited, `{"type": "sriov", "vlan": 100, "trust": "on"}`, trust},
		"trust in capitals":                  {limited, `{"type": "sriov", "vlan": 100, "Trust" : "on"}`, trust},
		"trust, another word":                {limited, `{"type": "sriov", "vlan": 100, "trust": true}`, trust},
		"no spoof check":                     {limited, `{"type": "sriov", "vlan": 100, "spoofchk": "off"}`, trust},
		"pods may override":                  {limited, `{"type": "sriov", "vlan": 100, "allowPodOverrides": ["vlan"]}`, trust},
		"leases where root's files are":      {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "host-local", "dataDir": "/etc/cron.d"}}`, trust},
		"leases elsewhere, in capitals":      {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "host-local", "DATADIR" : "/etc"}}`, trust},
		"a file of the node as resolv.conf":  {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "host-local", "resolvConf": "/etc/shadow"}}`, trust},
		"the same with a long s":             {limited, `{"type": "sriov", "vlan": 100, "ipam": {"type": "host-local", "reſolvConf": "/etc/shadow"}}`, trust},
		"trust allowed, said with uncertain": {map[string]string{"allowed-vlans": "5", "allow-trust": "yes"}, `{"type": "sriov", "vlan": 5, "trust": "on"}`, trust},
		"an allowed plugin with a quote":     {map[string]string{"allowed-plugins": `"host-device`}, `{"type": "host-device"}`, plugins},
		"longest, and slow to look through":  {limited, `{"type": "sriov", "vlan": 100, "x": "` + strings.Repeat(`type":`, 40000) + `"}`, plugins},
	}
	p := compile(t, decode[admissionv1.ValidatingAdmissionPolicy](t, kustomize(t, "policies/definitions"), "ValidatingAdmissionPolicy /viaduct-definitions"))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := p.refuses(t, defining(tt.config, tt.namespace)); (got != "") != (tt.want != "") || !strings.Contains(got, tt.want) {
				t.Errorf("refused: %q, want %q", got, tt.want)
			}
		})
	}
}

// The sample network passes where its VLAN is allowed.
func TestDefinitionsPolicyAdmitsTheSample(t *testing.T) {
	var sample unstructured.Unstructured
	if err := yaml.Unmarshal(kustomize(t, "samples")["NetworkAttachmentDefinition /vlan100"], &sample.Object); err != nil {
		t.Fatal(err)
	}
	config, found, err := unstructured.NestedString(sample.Object, "spec", "config")
	if err != nil || !found {
		t.Fatalf("the sample has no configuration: %v", err)
	}
	p := compile(t, decode[admissionv1.ValidatingAdmissionPolicy](t, kustomize(t, "policies/definitions"), "ValidatingAdmissionPolicy /viaduct-definitions"))
	if got := p.refuses(t, defining(config, map[string]string{"allowed-vlans": "100"})); got != "" {
		t.Error(got)
	}
}

// defining makes the request of a definition with this configuration, or none.
func defining(config string, annotations map[string]string) request {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	for key, value := range annotations {
		metav1.SetMetaDataAnnotation(&ns.ObjectMeta, "viaduct-sriov.github.io/"+key, value)
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": map[string]any{"name": "n", "namespace": "shop"},
	}}
	if config != "" {
		object.Object["spec"] = map[string]any{"config": config}
	}
	group := schema.GroupVersion{Group: "k8s.cni.cncf.io", Version: "v1"}
	return request{
		object: object, namespace: ns, by: account("somebody", ""),
		resource: group.WithResource("network-attachment-definitions"), kind: group.WithKind("NetworkAttachmentDefinition"),
	}
}
