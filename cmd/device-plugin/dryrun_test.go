package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/offer"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// try runs -dry-run on a tree with two VFs and a configuration.
func try(t *testing.T, configuration string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	args = append([]string{"--dry-run", "--root", tree.Root, "--config-file", file}, args...)
	err = run(t.Context(), args, func(string) string { return "" }, &out, &log)
	return out.String(), log.String(), err
}

func TestDryRun(t *testing.T) {
	stdout, stderr, err := try(t, `{"resourceList": [{"resourceName": "sriov", "selectors": {"pfnames": ["ens2#0"]}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"intel.com/sriov: 1 device\n", "pfNames: its index is not in ens2#0\n    ens2 VF 1\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if want := `it is read as pfNames: write it so`; !strings.Contains(stderr, want) {
		t.Errorf("no %q in\n%s", want, stderr)
	}
}

func TestDryRunForPrograms(t *testing.T) {
	stdout, _, err := try(t, `{"resourceList": [{"resourceName": "sriov", "selectors": {"pfNames": ["ens2#0"]}}]}`, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var report offer.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range report.Devices {
		got[d.ID] = d.Resource
	}
	if diff := cmp.Diff(map[string]string{"0000:02:00.0": "", "0000:02:10.0": "intel.com/sriov", "0000:02:10.2": ""}, got); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
}

func TestDryRunSaysAllFaults(t *testing.T) {
	stdout, _, err := try(t, `{"resourceList": [
  {"resourceName": "a", "selectors": {"vendor": ["8086"]}},
  {"resourceName": "a", "selectors": {"pfNames": ["ens2#3-1"]}}
]}`)
	if err == nil || stdout != "" {
		t.Fatalf("%v\n%s", err, stdout)
	}
	_, faults, _ := strings.Cut(err.Error(), "\n")
	want := `line 2: resourceList[0].selectors.vendor: there is no such key for netDevice: did you mean vendors?
line 3: resourceList[1].selectors.pfNames[0]: the range "3-1" ends before it starts
line 3: resourceList[1]: intel.com/a is already the resource of resourceList[0]: put both selectors into a list in one entry`
	if diff := cmp.Diff(want, faults); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}
