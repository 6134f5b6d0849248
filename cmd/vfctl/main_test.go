package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
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
			"node uninstall --state-dir VFS --journal-dir PODS --cni-bin-dir BIN --cni-conf-dir CONF --agent-socket CONF/agent.sock sriov meta-cni",
			"CONF/00-viaduct.conflist removed\nBIN/sriov removed\nBIN/meta-cni removed\n",
		},
	}
	expand := strings.NewReplacer("VFS", filepath.Join(node, "vfs"), "PODS", filepath.Join(node, "pods"), "BIN", bin, "FROM", from, "CONF", conf).Replace
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

// Told of folders where nothing of ours is, as by default on k3s, uninstall fails and says which flags to give: the runtime
// would go on to call what somebody then believes to be gone, or to call what is gone.
func TestUninstallInTheWrongFolders(t *testing.T) {
	dir := t.TempDir()
	bin, conf, other := filepath.Join(dir, "bin"), filepath.Join(dir, "conf"), filepath.Join(dir, "other")
	self, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"bin/meta-cni": string(self), "conf/00-viaduct.conflist": "{}", "other/README": ""} {
		full := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	uninstall := func(bin, conf string) error {
		_, err := vfctl(t, "node", "uninstall", "--state-dir", dir+"/vfs", "--journal-dir", dir+"/pods", "--agent-socket", dir+"/none",
			"--cni-bin-dir", bin, "--cni-conf-dir", conf, "sriov", "meta-cni")
		return err
	}
	for name, tt := range map[string]struct{ bin, conf, want string }{
		"both":               {other, other, "none of sriov, meta-cni is in " + other},
		"neither is there":   {other + "/none", other + "/none", "none of sriov, meta-cni is in " + other},
		"the plugins":        {other, conf, "none of sriov, meta-cni is in " + other},
		"the configurations": {bin, other, other + " has neither 00-viaduct.conflist nor any other network configuration"},
	} {
		err := uninstall(tt.bin, tt.conf)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "--cni-bin-dir and --cni-conf-dir") {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
		for _, path := range []string{bin + "/meta-cni", conf + "/00-viaduct.conflist"} {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := uninstall(bin, conf); err != nil {
		t.Error(err)
	}
	// On a node that has nothing of ours, for those who run it everywhere.
	if _, err := vfctl(t, "node", "uninstall", "--force", "--state-dir", dir+"/vfs", "--journal-dir", dir+"/pods", "--agent-socket", dir+"/none",
		"--cni-bin-dir", other, "--cni-conf-dir", other, "sriov", "meta-cni"); err != nil {
		t.Errorf("with --force: %v", err)
	}

	// Where the journals are is said in the folder that the flag names: here it is none, which is no reason to find nothing attached.
	journals := filepath.Join(other, "README")
	text := `{"plugins":[{"type":"meta-cni","stateDir":"` + journals + `"}]}`
	if err := os.WriteFile(filepath.Join(conf, "00-viaduct.conflist"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vfctl(t, "node", "uninstall", "--state-dir", dir+"/vfs", "--agent-socket", dir+"/none", "--cni-bin-dir", bin, "--cni-conf-dir", conf, "meta-cni"); err == nil || !strings.Contains(err.Error(), journals) {
		t.Errorf("with its journals elsewhere: %v", err)
	}
}

// While a pod has a VF, sriov stays, and so does what the runtime starts it by; --wait lasts until it is free.
func TestUninstallWaitsForPods(t *testing.T) {
	dir := t.TempDir()
	bin, conf := filepath.Join(dir, "bin"), filepath.Join(dir, "conf")
	self, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	write := map[string]string{"bin/sriov": string(self), "bin/sriov.viaduct-saved": "theirs", "conf/00-viaduct.conflist": "{}"}
	for path, text := range write {
		full := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	records := sriov.DefaultRecords(filepath.Join(dir, "vfs"))
	r := sriov.Record{Boot: "b", Phase: sriov.Attached, Owner: sriov.Owner{ContainerID: "c1", IfName: "net1", Network: "fast"}}
	if err := records.Write("0000:02:10.0", &r); err != nil {
		t.Fatal(err)
	}
	args := []string{"node", "uninstall", "--state-dir", records.Dir, "--journal-dir", dir + "/pods", "--cni-bin-dir", bin, "--cni-conf-dir", conf, "--agent-socket", dir + "/none", "sriov", "meta-cni"}
	out, err := vfctl(t, args...)
	if err == nil || !strings.Contains(err.Error(), `VF 0000:02:10.0: interface net1 of container c1 on network "fast"`) || out != "" {
		t.Errorf("%v: %s", err, out)
	}
	for path, text := range write {
		if data, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(data) != text {
			t.Errorf("%s was touched: %v", path, err)
		}
	}
	interrupted, interrupt := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer interrupt()
	root := newRoot()
	root.SetArgs(append(args, "--wait", "1h"))
	root.SetErr(io.Discard)
	if err := root.ExecuteContext(interrupted); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("interrupted, it says %v", err)
	}
	freed := make(chan error, 1)
	go func() {
		r.Phase = sriov.Free
		freed <- records.Write("0000:02:10.0", &r)
	}()
	out, err = vfctl(t, append(args, "--wait", "1m")...)
	if err := errors.Join(err, <-freed); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(bin, "sriov")); err != nil || string(data) != "theirs" || !strings.Contains(out, "is back") {
		t.Errorf("%q, %v: %s", data, err, out)
	}
}

func must(path string, err error) string {
	if err != nil {
		panic(err)
	}
	return path
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

// The shell is told what can follow: commands, VFs by address with what they are, and formats.
func TestCompletions(t *testing.T) {
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	tests := map[string]struct {
		args []string
		want []string // how lines begin
	}{
		"commands":      {[]string{"re"}, []string{"report", "restore"}},
		"a VF":          {[]string{"show", "--root", tree.Root, "0000:02:10"}, []string{"0000:02:10.0", "0000:02:10.2"}},
		"no second VF":  {[]string{"restore", "--root", tree.Root, "0000:02:10.0", ""}, nil},
		"output format": {[]string{"list", "-o", ""}, []string{"text", "json"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := vfctl(t, append([]string{"__complete"}, tt.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(out) {
				word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
				if strings.HasPrefix(word, ":") {
					break // what the shell is to do with it
				}
				got = append(got, word)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s\n%s", diff, out)
			}
		})
	}
}

// Without the folder of the locks gc could work on what meta-cni works on just now.
func TestGCWantsTheLocks(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"--journal-dir", dir}, {"--journal-dir", dir, "--run-dir", dir}, {"--journal-dir", dir, "--dry-run"}} {
		_, err := vfctl(t, append([]string{"gc", "--state-dir", dir}, args...)...)
		if refused := err != nil && strings.Contains(err.Error(), "--run-dir"); refused != (len(args) == 2) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
