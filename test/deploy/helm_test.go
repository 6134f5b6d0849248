package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

const chartFolder = "../../charts/viaduct"

// helm makes what helm install sends: the chart's CRDs, and its templates with these values.
func helm(t *testing.T, values map[string]any) objects {
	t.Helper()
	chart, err := loader.Load(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	release := common.ReleaseOptions{Name: "anything", Namespace: "viaduct", Revision: 1, IsInstall: true}
	with, err := util.ToRenderValues(chart, values, release, common.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(chart, with)
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, crd := range chart.CRDObjects() {
		all.add(t, crd.File.Data)
	}
	for name, text := range rendered {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for _, document := range regexp.MustCompile(`(?m)^---$`).Split(text, -1) {
			if strings.TrimSpace(document) != "" {
				all.add(t, []byte(document))
			}
		}
	}
	return all
}

// The chart makes the objects of conf/, for each overlay with the values that stand for it. The namespace is Helm's affair,
// and so is whether the definitions' kind is there already.
func TestChartEqualsKustomize(t *testing.T) {
	type values = map[string]any
	tests := map[string]values{
		".":                      nil,
		"overlays/device-plugin": {"metaAgent": values{"enabled": false}},
		"overlays/meta":          {"devicePlugin": values{"enabled": false}},
		"overlays/cdi":           {"devicePlugin": values{"cdi": true}},
		"overlays/var-lib-cni":   {"nodePaths": values{"cniBin": "/var/lib/cni/bin"}},
		"overlays/k0s":           {"nodePaths": values{"kubelet": "/var/lib/k0s/kubelet"}},
		"overlays/selinux":       {"seLinuxType": "spc_t"},
		"overlays/dac-override":  {"dacOverride": true},
		"overlays/k3s": {"nodePaths": values{
			"cniBin": "/var/lib/rancher/k3s/data/cni", "cniConf": "/var/lib/rancher/k3s/agent/etc/cni",
		}},
	}
	for _, overlay := range overlays(t) {
		t.Run(overlay, func(t *testing.T) {
			want, got := kustomize(t, overlay), helm(t, tests[overlay])
			delete(want, namespace[0])
			if overlay == "overlays/device-plugin" {
				delete(got, metaCNI[2])
			}
			if d := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); d != "" {
				t.Errorf("objects: -kustomize +helm:\n%s", d)
			}
			byHelm := plain(t, got)
			for key, object := range plain(t, want) {
				if d := cmp.Diff(object, byHelm[key]); d != "" {
					t.Errorf("%s: -kustomize +helm:\n%s", key, d)
				}
			}
		})
	}
}

// plain is the objects without their text's form, and without the order of volumes and mounts, which means nothing.
func plain(t *testing.T, from objects) map[string]any {
	t.Helper()
	values := map[string]any{}
	for key, data := range from {
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		values[key] = sorted(v)
	}
	return values
}

func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			inner = sorted(inner)
			if list, ok := inner.([]any); ok && (key == "volumes" || key == "volumeMounts") {
				slices.SortFunc(list, func(a, b any) int {
					return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
				})
			}
			v[key] = inner
		}
	case []any:
		for i := range v {
			v[i] = sorted(v[i])
		}
	}
	return v
}

// Every value is there to be changed: another one changes what is made.
func TestChartValuesCount(t *testing.T) {
	type values = map[string]any
	usual := plain(t, helm(t, nil))
	for name, v := range map[string]values{
		"image.repository":    {"image": values{"repository": "registry.example.org/viaduct"}},
		"image.tag":           {"image": values{"tag": "v1"}},
		"image.pullPolicy":    {"image": values{"pullPolicy": "Always"}},
		"devicePlugin.args":   {"devicePlugin": values{"args": []any{"-resource-prefix=example.org"}}},
		"devicePlugin.config": {"devicePlugin": values{"config": "{}"}},
		"metaAgent.args":      {"metaAgent": values{"args": []any{"--namespace-isolation"}}},
	} {
		if cmp.Equal(usual, plain(t, helm(t, v))) {
			t.Errorf("%s changes nothing", name)
		}
	}
}

// In another namespace, nothing of the chart is left in the usual one: the policy's user least of all.
func TestChartInAnotherNamespace(t *testing.T) {
	err := filepath.WalkDir(filepath.Join(chartFolder, "templates"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if regexp.MustCompile(`(namespace: |serviceaccount:)viaduct`).Match(text) {
			t.Errorf("%s names the namespace", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
