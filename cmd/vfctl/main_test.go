package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vfctl runs the program's root command and returns what it prints.
func vfctl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestNodeInstallAndUninstall(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, node := t.TempDir(), t.TempDir()
	bin, conf := filepath.Join(node, "bin"), filepath.Join(node, "conf")
	for _, name := range []string{"sriov-cni", "meta-cni"} {
		if err := os.Symlink(self, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "00-viaduct.conflist"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	steps := []struct{ args, want string }{
		{"node install --cni-bin-dir BIN --from FROM sriov meta-cni", "BIN/sriov installed\nBIN/meta-cni installed\n"},
		{"node install --cni-bin-dir BIN --from FROM sriov", "BIN/sriov was up to date already\n"},
		{
			"node uninstall --cni-bin-dir BIN --cni-conf-dir CONF --agent-socket CONF/agent.sock sriov meta-cni",
			"CONF/00-viaduct.conflist removed\nBIN/sriov removed\nBIN/meta-cni removed\n",
		},
	}
	expand := strings.NewReplacer("BIN", bin, "FROM", from, "CONF", conf).Replace
	for _, step := range steps {
		got, err := vfctl(t, strings.Fields(expand(step.args))...)
		if err != nil {
			t.Fatalf("%s: %v", step.args, err)
		}
		if d := cmp.Diff(expand(step.want), got); d != "" {
			t.Errorf("%s: %s", step.args, d)
		}
	}
}

func TestRefusesArguments(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"no plugin":       {"node install", "name the plugins: one or more of meta-cni, sriov, vfctl"},
		"unknown plugin":  {"node install sriov-cni", `there is no plugin "sriov-cni": one or more of meta-cni, sriov, vfctl`},
		"unknown command": {"nodes", `unknown command "nodes" for "vfctl"`},
		"unknown flag":    {"node install --force sriov", "unknown flag: --force"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := vfctl(t, strings.Fields(tt.args)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
