package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build builds a program of this project as the Makefile does, from a copy of the sources in folder; "" is here.
func build(t *testing.T, folder, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "./cmd/"+name)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

const sources = "../.."

// Every module that a program says it is made of is listed, with its version, and so are the standard library and the program.
func TestEveryModuleIsListed(t *testing.T) {
	programs := []string{build(t, sources, "meta-cni"), build(t, sources, "sriov-cni")}
	data, err := Of(programs...)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, c := range d.Components {
		listed[c.Name] = c.Version
		if (c.Type == "library") != (c.PURL == c.Ref) {
			t.Errorf("%+v: a library goes by its package URL", c)
		}
	}
	uses := map[string]int{}
	for _, dep := range d.Dependencies {
		uses[dep.Ref] = len(dep.DependsOn)
		for _, ref := range dep.DependsOn {
			if !bytes.Contains(data, []byte(`"bom-ref": "`+ref+`"`)) {
				t.Errorf("%s uses %s, which is not there", dep.Ref, ref)
			}
		}
	}
	for _, path := range programs {
		out, versionErr := exec.Command("go", "version", "-m", path).Output()
		if versionErr != nil {
			t.Fatal(versionErr)
		}
		modules := 1 // the standard library
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); f[0] == "dep" {
				modules++
				if listed[f[1]] != f[2] {
					t.Errorf("%s: %s %s is listed as %q", filepath.Base(path), f[1], f[2], listed[f[1]])
				}
			}
		}
		if got := uses["program:"+filepath.Base(path)]; got != modules || modules < 3 {
			t.Errorf("%s uses %d modules, the document says %d", filepath.Base(path), modules, got)
		}
	}
	if listed["stdlib"] == "" {
		t.Error("the standard library is not listed")
	}
	again, err := Of(programs[1], programs[0])
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same programs in another order give another document: %v", err)
	}
}

func TestRefusesWhatIsNoProgramOfGo(t *testing.T) {
	if _, err := Of("/bin/sh"); err == nil {
		t.Error("/bin/sh passed")
	}
}

// The same sources in another folder give the same bytes.
func TestReproducible(t *testing.T) {
	copied := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "cmd", "internal", "pkg"} {
		if err := exec.Command("cp", "-r", filepath.Join(sources, name), copied).Run(); err != nil {
			t.Fatal(err)
		}
	}
	here, err := os.ReadFile(build(t, sources, "sriov-cni"))
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.ReadFile(build(t, copied, "sriov-cni"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(here, there) {
		t.Error("two builds of sriov-cni differ")
	}
}
