package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const conf = "../../conf"

// objects are Kubernetes objects as JSON, by kind, namespace and name.
type objects map[string]json.RawMessage

// add takes an object in, from YAML or JSON.
func (o objects) add(t *testing.T, text []byte) {
	t.Helper()
	var id struct {
		Kind     string
		Metadata struct{ Namespace, Name string }
	}
	if err := yaml.Unmarshal(text, &id); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	key := fmt.Sprintf("%s %s/%s", id.Kind, id.Metadata.Namespace, id.Metadata.Name)
	if _, twice := o[key]; twice {
		t.Errorf("%s is there twice", key)
	}
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	o[key] = data
}

// kustomize makes what kubectl apply -k sends, of a folder in conf.
func kustomize(t *testing.T, folder string) objects {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(conf, folder))
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, r := range made.Resources() {
		all.add(t, []byte(r.MustYaml()))
	}
	return all
}

// decode reads an object strictly: a misspelt field is an error, where kubectl would only warn or drop it.
func decode[T any](t *testing.T, from objects, key string) T {
	t.Helper()
	var v T
	data, ok := from[key]
	if !ok {
		t.Fatalf("there is no %s", key)
	}
	if err := yaml.UnmarshalStrict(data, &v); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return v
}

// pods are the templates of the DaemonSets, by name.
func (o objects) pods(t *testing.T) map[string]corev1.PodSpec {
	t.Helper()
	pods := map[string]corev1.PodSpec{}
	for key := range o {
		var name string
		if _, err := fmt.Sscanf(key, "DaemonSet viaduct/%s", &name); err == nil {
			pods[name] = decode[appsv1.DaemonSet](t, o, key).Spec.Template.Spec
		}
	}
	return pods
}

// containers are all of a pod's.
func containers(pod corev1.PodSpec) []corev1.Container {
	return slices.Concat(pod.InitContainers, pod.Containers)
}

// overlays are the folders of conf that somebody applies as the whole.
func overlays(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(conf, "overlays"))
	if err != nil {
		t.Fatal(err)
	}
	folders := []string{"."}
	for _, e := range entries {
		folders = append(folders, "overlays/"+e.Name())
	}
	return folders
}
