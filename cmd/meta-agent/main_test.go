package main

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func environment(values map[string]string) func(string) string {
	return func(key string) string { return values[key] }
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, environment(nil), &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v, want flag.ErrHelp", err)
	}
	for _, word := range []string{"network-attachment-definitions", "vfctl node uninstall", "-networks-dir"} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("the help does not say %q", word)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--namespace-isolation", "--global-namespaces=a, b", "--log-level=debug"}, environment(map[string]string{"NODE_NAME": "n1"}), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if host, _, err := net.SplitHostPort(o.MetricsAddress); err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("unless told, it serves metrics at %q: %v", o.MetricsAddress, err)
	}
	if d := cmp.Diff([]any{"n1", true, []string{"a", "b"}, slog.LevelDebug}, []any{o.NodeName, o.Node.Policy.Isolated, o.Node.Policy.Global, o.level}); d != "" {
		t.Error(d)
	}
}

func TestMultusFileForTheAgent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "multus.conf")
	config := `{"type":"multus","namespaceIsolation":true,"globalNamespaces":"a","confDir":"/nets","logLevel":"error","clusterNetwork":"d","kubeconfig":"/x"}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][]any{
		"": {true, []string{"a"}, "/nets", slog.LevelWarn},
		"--namespace-isolation=false --global-namespaces=b --networks-dir=/mine --log-level=error": {false, []string{"b"}, "/mine", slog.LevelError},
	} {
		o, err := parse(append(strings.Fields(args), "--node-name=n", "--config="+file), environment(nil), &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, []any{o.Node.Policy.Isolated, o.Node.Policy.Global, o.NetworksDir, o.level}); d != "" {
			t.Errorf("%s: %s", args, d)
		}
		if !o.Node.HasDefault() || !cmp.Equal(o.Node.Ignored, []string{"kubeconfig"}) {
			t.Errorf("got %+v", o.Node)
		}
	}
}

// Keys of Multus' file that mean nothing here are told once, all in one warning, and no other key is.
func TestMultusIgnoredKeysAreOneWarning(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // there is no cluster: it ends behind the warning
	for config, want := range map[string]string{
		`{"type":"multus","name":"n","cniVersion":"1.0.0","capabilities":{"portMappings":true},"confDir":"/nets","binDir":"/bin","logLevel":"debug","namespaceIsolation":true}`: "",
		`{"type":"multus","kubeconfig":"/x"}`: "[kubeconfig]",
		`{"type":"multus","logToStderr":true,"kubeconfig":"/x","Note":"a","clusterNetwork":"d","delegates":[{"type":"bridge"}],"logFile":"/y","logLevel":"loud","confDir":"/nets",
			"auxiliaryCNIChainName":"c"}`: "[Note auxiliaryCNIChainName delegates kubeconfig logFile logLevel logToStderr]",
	} {
		file := filepath.Join(t.TempDir(), "multus.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		if err := run(t.Context(), []string{"--node-name=n", "--config=" + file}, environment(nil), &said); err == nil {
			t.Fatal("it found a cluster")
		}
		warnings := regexp.MustCompile(`(?m)^.* level=WARN .* file=(\S+) keys="?(\[.*?\])"?$`).FindAllStringSubmatch(said.String(), -1)
		got := ""
		for _, w := range warnings {
			if got = w[2]; w[1] != file {
				t.Errorf("the warning is of the file %s", w[1])
			}
		}
		if got != want || len(warnings) > 1 || strings.Count(said.String(), "level=WARN") != len(warnings) {
			t.Errorf("%s: warned of %s, want %s:\n%s", config, got, want, said.String())
		}
	}
}

func TestRefuses(t *testing.T) {
	named := environment(map[string]string{"NODE_NAME": "n1"})
	tests := map[string]struct {
		args   []string
		getenv func(string) string
		want   string
	}{
		"no node name":        {nil, environment(nil), "NODE_NAME"},
		"an argument":         {[]string{"run"}, named, `"run"`},
		"a bad namespace":     {[]string{"--global-namespaces=A"}, named, `"A"`},
		"no such file":        {[]string{"--config=/none"}, named, "/none"},
		"no cluster":          {nil, named, "--kubeconfig"},
		"no such kubeconfig":  {[]string{"--kubeconfig=" + filepath.Join(t.TempDir(), "none")}, named, "none"},
		"an unknown option":   {[]string{"--frobnicate"}, named, "frobnicate"},
		"a level of its own":  {[]string{"--log-level=loud"}, named, "loud"},
		"a timeout of no one": {[]string{"--lookup-timeout=soon"}, named, "soon"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			err := run(t.Context(), tt.args, tt.getenv, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
		})
	}
}
