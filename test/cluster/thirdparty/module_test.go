package thirdparty

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRender(t *testing.T) {
	tests := []struct {
		name   string
		source Source
		goMod  string
		want   string
	}{
		{
			name:   "staging modules come from where they are published",
			source: Source{Module: "k8s.io/kubernetes", Version: "v1.37.2"},
			goMod: `{"Go":"1.26.0",
				"Require":[{"Path":"k8s.io/api","Version":"v0.0.0"},{"Path":"k8s.io/klog/v2","Version":"v2.140.0"}],
				"Replace":[{"Old":{"Path":"k8s.io/api"},"New":{"Path":"./staging/src/k8s.io/api"}}]}`,
			want: "module build\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v1.37.2\nreplace k8s.io/api => k8s.io/api v0.37.2\n",
		},
		{
			name:   "a module that is required at a real version needs no replacement",
			source: Source{Module: "go.etcd.io/etcd/server/v3", Version: "v3.7.3"},
			goMod: `{"Go":"1.26","Require":[{"Path":"go.etcd.io/etcd/api/v3","Version":"v3.7.3"}],
				"Replace":[{"Old":{"Path":"go.etcd.io/etcd/api/v3"},"New":{"Path":"../api"}}]}`,
			want: "module build\n\ngo 1.26\n\nrequire go.etcd.io/etcd/server/v3 v3.7.3\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mod goMod
			if err := json.Unmarshal([]byte(tt.goMod), &mod); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, render(tt.source, mod)); diff != "" {
				t.Errorf("go.mod (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVersionOverride(t *testing.T) {
	t.Setenv("VIADUCT_KUBERNETES_VERSION", "1.36.3")
	for _, s := range Sources() {
		if s.Name == "kubernetes" {
			if s.Version != "v1.36.3" {
				t.Errorf("version %s, want v1.36.3", s.Version)
			}
			if want := "-X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"; s.LDFlags != want {
				t.Errorf("linker flags %q, want %q", s.LDFlags, want)
			}
		}
	}
}

func TestProgressCountsPackagesAndKeepsErrors(t *testing.T) {
	p := &progress{}
	for _, piece := range []string{"k8s.io/api/core", "/v1\nk8s.io/klog/v2\n# k8s.io/x\n", "x.go:1:2: undefined: y\n"} {
		if _, err := p.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if p.done != 2 {
		t.Errorf("counted %d packages, want 2", p.done)
	}
	if diff := cmp.Diff("# k8s.io/x\nx.go:1:2: undefined: y", p.messages()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}
