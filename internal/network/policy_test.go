package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamespaceIsolation(t *testing.T) {
	isolated := Policy{Isolated: true, Global: []string{"default", "shared"}}
	tests := map[string]struct {
		policy      Policy
		annotations map[string]string
		words       []string // nil: allowed
	}{
		"off":                          {Policy{}, map[string]string{NetworksAnnotation: "other/a"}, nil},
		"its own":                      {isolated, map[string]string{NetworksAnnotation: "a,shop/b"}, nil},
		"a global one":                 {isolated, map[string]string{NetworksAnnotation: "shared/a"}, nil},
		"another's":                    {isolated, map[string]string{NetworksAnnotation: "a,other/b"}, []string{"network other/b", "[1].namespace", "shop, default, shared", "pod shop/till-0"}},
		"another's, in JSON":           {isolated, map[string]string{NetworksAnnotation: `[{"name":"b","namespace":"other"}]`}, []string{"network other/b"}},
		"all faults at once":           {isolated, map[string]string{NetworksAnnotation: "x/a,y/b"}, []string{"x/a", "y/b"}},
		"the default network's own":    {isolated, map[string]string{DefaultNetworkAnnotation: "d"}, nil},
		"another's as default network": {isolated, map[string]string{DefaultNetworkAnnotation: "other/d"}, []string{DefaultNetworkAnnotation, "other/d"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			wants, err := ParseAnnotations(testPod, tt.annotations, DefaultNamespace)
			if err != nil {
				t.Fatal(err)
			}
			err = tt.policy.check(wants).err()
			if tt.words == nil {
				if err != nil {
					t.Errorf("got %v, want it allowed", err)
				}
				return
			}
			wantRefusal(t, err, tt.words...)
		})
	}
}

func TestParseNamespaces(t *testing.T) {
	got, err := ParseNamespaces(" default, shared ,")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"default", "shared"}, got); d != "" {
		t.Error(d)
	}
	if got, err := ParseNamespaces(""); err != nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = ParseNamespaces("a,B")
	wantRefusal(t, err, `"B"`)
}
