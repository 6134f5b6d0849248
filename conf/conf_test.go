// Package conf holds no code: its tests look at what is shipped to clusters, as the product reads it. What kubectl and the API
// server make of it, test/deploy looks at.
package conf

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

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
	for folder, want := range map[string]struct {
		vlan uint16
		ipam string
	}{
		"samples":      {100, "host-local"},
		"samples/dpdk": {101, ""},
	} {
		t.Run(folder, func(t *testing.T) {
			def := decode[definition](t, string(read(t, folder+"/network.yaml")))
			config, err := sriov.Parse([]byte(def.Spec.Config), "")
			if err != nil {
				t.Fatal(err)
			}
			if config.VLAN == nil || config.VLAN.ID != want.vlan || config.IPAM != want.ipam {
				t.Errorf("the network is VLAN %v with IPAM %q", config.VLAN, config.IPAM)
			}
			for _, doc := range documents(t, folder+"/pods.yaml") {
				def.fits(t, decode[corev1.Pod](t, doc))
			}
		})
	}
}

type definition struct {
	APIVersion, Kind string
	Metadata         struct {
		Name        string
		Annotations map[string]string
	}
	Spec struct{ Config string }
}

func (d definition) fits(t *testing.T, pod corev1.Pod) {
	t.Helper()
	selections, err := network.ParseSelections(pod.Annotations[network.NetworksAnnotation], "default")
	if err != nil {
		t.Fatal(err)
	}
	if len(selections) != 1 || selections[0].Name != d.Metadata.Name {
		t.Errorf("%s asks for %v, want %s", pod.Name, selections, d.Metadata.Name)
	}
	resource := d.Metadata.Annotations["k8s.v1.cni.cncf.io/resourceName"]
	if n := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceName(resource)]; n.Value() != 1 {
		t.Errorf("%s asks for %v of %s, want 1", pod.Name, n.Value(), resource)
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
