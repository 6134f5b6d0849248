// Package conf holds no code: its tests look at what is shipped to clusters.
package conf

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// documents are the YAML documents of a file.
func documents(t *testing.T, path string) []string {
	t.Helper()
	return strings.Split(string(read(t, path)), "\n---\n")
}

// decode reads a document strictly: a misspelt field is an error, where kubectl would only warn or drop it.
func decode[T any](t *testing.T, document string) T {
	t.Helper()
	var v T
	if err := yaml.UnmarshalStrict([]byte(document), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func daemonSets(t *testing.T) map[string]appsv1.DaemonSet {
	t.Helper()
	all := map[string]appsv1.DaemonSet{}
	for _, name := range []string{"device-plugin", "meta-agent"} {
		all[name] = decode[appsv1.DaemonSet](t, string(read(t, name+"/daemonset.yaml")))
	}
	return all
}

// No container has more rights than it needs, and each says so itself.
func TestContainersAreRestricted(t *testing.T) {
	for name, ds := range daemonSets(t) {
		pod := ds.Spec.Template.Spec
		if p := pod.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: seccomp profile %v", name, p)
		}
		if pod.HostPID || pod.HostIPC {
			t.Errorf("%s: uses the host's processes or IPC", name)
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			s := c.SecurityContext
			want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
			if d := cmp.Diff(want, s.Capabilities); d != "" {
				t.Errorf("%s/%s: capabilities: %s", name, c.Name, d)
			}
			if s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s/%s: privileged, may escalate, or may write to its root", name, c.Name)
			}
		}
	}
}

// What a compromised container could change on the host, which is what to justify to whoever lets this onto nodes.
func TestWritableHostPaths(t *testing.T) {
	want := map[string][]string{
		"device-plugin/install": {"/opt/cni/bin"},
		"device-plugin/device-plugin": {
			"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/plugins_registry", "/var/run/k8s.cni.cncf.io/devinfo",
		},
		"meta-agent/install":    {"/opt/cni/bin"},
		"meta-agent/meta-agent": {"/etc/cni", "/run/viaduct/agent"},
	}
	got := map[string][]string{}
	for name, ds := range daemonSets(t) {
		pod := ds.Spec.Template.Spec
		paths := map[string]string{}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				paths[v.Name] = v.HostPath.Path
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			for _, m := range c.VolumeMounts {
				if path := paths[m.Name]; path != "" && !m.ReadOnly {
					got[name+"/"+c.Name] = append(got[name+"/"+c.Name], path)
				}
			}
			slices.Sort(got[name+"/"+c.Name])
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// CDI is a right of its own: the overlay adds the folder and the flag to the container that is there, and nothing else.
func TestCDIOverlay(t *testing.T) {
	ds := decode[appsv1.DaemonSet](t, string(read(t, "overlays/cdi/device-plugin.yaml")))
	var container corev1.Container
	for _, c := range daemonSets(t)["device-plugin"].Spec.Template.Spec.Containers {
		container.Name = c.Name
	}
	container.Args = []string{"-use-cdi"}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "cdi", MountPath: cdi.DefaultRoot}}
	if d := cmp.Diff([]corev1.Container{container}, ds.Spec.Template.Spec.Containers); d != "" {
		t.Error(d)
	}
	if v := ds.Spec.Template.Spec.Volumes; len(v) != 1 || v[0].HostPath == nil || v[0].HostPath.Path != cdi.DefaultRoot {
		t.Errorf("volumes: %+v", v)
	}
}

// Only the agent gets a token.
func TestTokens(t *testing.T) {
	account := decode[corev1.ServiceAccount](t, string(read(t, "device-plugin/serviceaccount.yaml")))
	pod := daemonSets(t)["device-plugin"].Spec.Template.Spec
	for what, mounts := range map[string]*bool{"account": account.AutomountServiceAccountToken, "pod": pod.AutomountServiceAccountToken} {
		if mounts == nil || *mounts {
			t.Errorf("the device plugin's %s mounts a token", what)
		}
	}
	if pod.ServiceAccountName != account.Name {
		t.Errorf("the device plugin runs as %s, not %s", pod.ServiceAccountName, account.Name)
	}
}

func TestRights(t *testing.T) {
	docs := documents(t, "meta-agent/rbac.yaml")
	if len(docs) != 3 {
		t.Fatalf("%d documents, want an account, a role and a binding", len(docs))
	}
	role := decode[rbacv1.ClusterRole](t, docs[1])
	for _, rule := range role.Rules {
		for _, word := range slices.Concat(rule.Verbs, rule.Resources, rule.APIGroups) {
			if word == "*" || word == "secrets" || word == "delete" {
				t.Errorf("the agent has %q in %v", word, rule)
			}
		}
	}
	binding := decode[rbacv1.ClusterRoleBinding](t, docs[2])
	account := decode[corev1.ServiceAccount](t, docs[0])
	if binding.RoleRef.Name != role.Name || binding.Subjects[0].Name != account.Name {
		t.Errorf("the binding joins %s and %s", binding.RoleRef.Name, binding.Subjects[0].Name)
	}
	if got := daemonSets(t)["meta-agent"].Spec.Template.Spec.ServiceAccountName; got != account.Name {
		t.Errorf("the agent runs as %s", got)
	}
}

// The shipped pool takes the VFs of common NICs and no PF.
func TestDevicePluginConfig(t *testing.T) {
	config, warnings, err := pool.Parse(read(t, "device-plugin/config.json"), "intel.com")
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, warnings: %v", err, warnings)
	}
	if len(config.Pools) != 1 {
		t.Errorf("%d pools, want one", len(config.Pools))
	}
}

// The sample pods ask for the sample network, and for the resource that it is made of.
func TestSamplesFitTogether(t *testing.T) {
	type definition struct {
		APIVersion, Kind string
		Metadata         struct {
			Name        string
			Annotations map[string]string
		}
		Spec struct{ Config string }
	}
	def := decode[definition](t, string(read(t, "samples/network.yaml")))
	config, err := sriov.Parse([]byte(def.Spec.Config), "")
	if err != nil {
		t.Fatal(err)
	}
	if config.VLAN == nil || config.VLAN.ID != 100 || config.IPAM != "host-local" {
		t.Errorf("the network is VLAN %v with IPAM %q", config.VLAN, config.IPAM)
	}
	resource := def.Metadata.Annotations["k8s.v1.cni.cncf.io/resourceName"]
	for _, doc := range documents(t, "samples/pods.yaml") {
		pod := decode[corev1.Pod](t, doc)
		selections, err := network.ParseSelections(pod.Annotations[network.NetworksAnnotation], "default")
		if err != nil {
			t.Fatal(err)
		}
		if len(selections) != 1 || selections[0].Name != def.Metadata.Name {
			t.Errorf("%s asks for %v, want %s", pod.Name, selections, def.Metadata.Name)
		}
		if n := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceName(resource)]; n.Value() != 1 {
			t.Errorf("%s asks for %v of %s, want 1", pod.Name, n.Value(), resource)
		}
	}
}

// Every file is reachable from a kustomization beside it.
func TestNoStrayFiles(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "kustomization.yaml" || strings.HasSuffix(path, ".go") {
			return err
		}
		kustomization := string(read(t, filepath.Join(filepath.Dir(path), "kustomization.yaml")))
		if !strings.Contains(kustomization, e.Name()) {
			t.Errorf("%s is in no kustomization", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The definition's kind is the standard's, by all of its names.
func TestStandardDefinitionKind(t *testing.T) {
	var crd struct {
		Metadata struct{ Name string }
		Spec     struct {
			Group, Scope string
			Names        struct {
				Plural, Singular, Kind string
				ShortNames             []string
			}
			Versions []struct {
				Name            string
				Served, Storage bool
				Schema          struct {
					OpenAPIV3Schema struct {
						Required   []string
						Properties struct {
							Spec struct {
								Required   []string
								Properties map[string]struct{ Type string }
							}
						}
					} `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(read(t, "meta-agent/crd.yaml"), &crd); err != nil {
		t.Fatal(err)
	}
	names := crd.Spec.Names
	slices.Sort(names.ShortNames)
	got := []string{crd.Metadata.Name, crd.Spec.Group, crd.Spec.Scope, names.Plural, names.Kind, strings.Join(names.ShortNames, " ")}
	want := []string{
		"network-attachment-definitions.k8s.cni.cncf.io", "k8s.cni.cncf.io", "Namespaced", "network-attachment-definitions",
		"NetworkAttachmentDefinition", "nad net-attach-def",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(crd.Spec.Versions) != 1 || crd.Spec.Versions[0].Name != "v1" || !crd.Spec.Versions[0].Served || !crd.Spec.Versions[0].Storage {
		t.Fatalf("versions: %+v", crd.Spec.Versions)
	}
	schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if spec := schema.Properties.Spec; spec.Properties["config"].Type != "string" || schema.Required != nil || spec.Required != nil {
		t.Errorf("spec.config is to be an optional string: %+v", schema)
	}
}
