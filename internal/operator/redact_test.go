package operator

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/journal"
)

func TestRedact(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"known":               {`{"type": "sriov", "vlan": 100, "ipam": {"type": "static", "addresses": [{"address": "10.0.0.1/8"}]}}`, ``},
		"unknown":             {`{"type": "x", "secret": "s", "pin": 1234, "on": true, "nothing": null}`, `{"type": "x", "secret": "(text, removed)", "pin": "(a number, removed)", "on": true, "nothing": null}`},
		"known below unknown": {`{"etcd": {"name": "s", "list": ["s", {"type": "s"}]}}`, `{"etcd": {"name": "(text, removed)", "list": ["(text, removed)", {"type": "(text, removed)"}]}}`},
		"unknown below known": {`{"ipam": {"type": "whereabouts", "kubernetes": {"kubeconfig": "s"}}}`, `{"ipam": {"type": "whereabouts", "kubernetes": {"kubeconfig": "(text, removed)"}}}`},
		"other case":          {`{"VLAN": 5, "Password": "s"}`, `{"VLAN": 5, "Password": "(text, removed)"}`},
		"annotations":         {`{"runtimeConfig": {"mac": "02:00:00:00:00:01", "io.kubernetes.cri.pod-annotations": {"type": "s"}}}`, `{"runtimeConfig": {"mac": "02:00:00:00:00:01", "io.kubernetes.cri.pod-annotations": {"type": "(text, removed)"}}}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.want == "" {
				test.want = test.in
			}
			got, err := redactJSON([]byte(test.in), harmless)
			if err != nil {
				t.Fatal(err)
			}
			var a, b any
			if err := json.Unmarshal([]byte(test.want), &a); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(got, &b); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("redacted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRedactText(t *testing.T) {
	tests := map[string]string{
		`msg="ipam" error="password=hunter2, then"`:                                 `msg="ipam" error="password=(removed), then"`,
		`error="{\"etcd_password\":\"hunter2\",\"token\":\"abcdefgh\"}"`:            `error="{\"etcd_password\":(removed),\"token\":(removed)}"`,
		`password=\"hunter2\"`:                                                      `password=(removed)`,
		`{"token": "abc def", "vlan": 1}`:                                           `{"token": (removed), "vlan": 1}`,
		`Authorization: Bearer abcdefgh12345`:                                       `Authorization: (removed)`,
		`got bearer abcdefgh12345 from it`:                                          `got bearer (removed) from it`,
		`dial https://user:pw@etcd:2379/x`:                                          `dial https://(removed)@etcd:2379/x`,
		`jwt eyJhbGciOiJSUzI1.eyJzdWIiOi.c2ln`:                                      `jwt (removed)`,
		"a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb": "a\n(removed)\nb",
		`level=INFO msg=attached vf=0000:02:10.0 key=0000:02:10.0`:                  `level=INFO msg=attached vf=0000:02:10.0 key=0000:02:10.0`,
	}
	for in, want := range tests {
		if got := string(redactText([]byte(in))); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
}

// Texts are looked at one by one: what stands between them in JSON is no part of any.
func TestRedactTexts(t *testing.T) {
	notes := []string{"it wants a token:", "vlan 5", `IPAM said {"token": "hunter2"}`, `password="a, b"`}
	got, err := redactTexts(&Status{Notes: notes})
	if err != nil {
		t.Fatal(err)
	}
	var s Status
	if err := json.Unmarshal(got, &s); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	want := []string{notes[0], notes[1], `IPAM said {"token": (removed)}`, `password=(removed)`}
	if d := cmp.Diff(want, s.Notes); d != "" {
		t.Error(d)
	}
}

func TestRedactArgs(t *testing.T) {
	got := redactArgs("IgnoreUnknown=1;K8S_POD_NAME=a;TOKEN=s=t;MAC=02:00:00:00:00:01;x")
	if want := "IgnoreUnknown=1;K8S_POD_NAME=a;TOKEN=(removed);MAC=02:00:00:00:00:01;x"; got != want {
		t.Errorf("got %s", got)
	}
}

// A record that has advanced goes out as it is read: with all that stands behind it, and torn if it is.
func TestRedactedRecordsAreWhole(t *testing.T) {
	store := journal.Store{Dir: t.TempDir(), Version: 1}
	type record struct{ Phase, Secret string }
	if err := errors.Join(store.Write("k", record{Phase: "adding"}), store.Advance("k", record{Phase: "added"})); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(store.Dir, "k.json"))
	if err != nil {
		t.Fatal(err)
	}
	for behind, want := range map[string]error{"": nil, `{"vers`: journal.ErrTorn, "\x00\x00": journal.ErrTorn} {
		out, err := redactRecord(append(slices.Clone(data), behind...))
		if err != nil {
			t.Fatal(err)
		}
		var got record
		if err := store.Parse("k", out, &got); !errors.Is(err, want) || got.Phase != "added" {
			t.Errorf("with %q behind it: %+v, %v; %s", behind, got, err, out)
		}
	}
	if out, err := redactRecord([]byte(`x {}`)); err == nil {
		t.Errorf("what cannot be read goes out: %s", out)
	}
}

// Whatever a definition looks like, no value of a key that nobody knows goes out.
func TestRedactedRecordsLeakNothing(t *testing.T) {
	for _, s := range []string{`{"a": "SECRET"}`, `{"ipam": {"x": ["SECRET", {"type": "SECRET"}]}}`, `[{"SECRET": 1}]`, `"x"`, `{"type": {"y": "SECRET"}}`} {
		out, err := redactRecord([]byte(`{"config": ` + s + `}`))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(out, &v); err != nil {
			t.Fatalf("not JSON: %s", out)
		}
		var found func(v any, known bool)
		found = func(v any, known bool) {
			switch x := v.(type) {
			case map[string]any:
				for key, value := range x {
					found(value, known && (harmless[strings.ToLower(key)] || key == "config"))
				}
			case []any:
				for _, value := range x {
					found(value, known)
				}
			case string:
				if !known && !strings.HasSuffix(x, "removed)") {
					t.Errorf("%q is in %s", x, out)
				}
			case float64:
				if !known {
					t.Errorf("%v is in %s", x, out)
				}
			}
		}
		found(v, true)
	}
}
