package cdi_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	library "tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
)

// inject does with names what a container runtime does: the CDI's own library finds, checks and applies what is there.
func inject(t *testing.T, dir cdi.Dir, names ...string) *oci.Spec {
	t.Helper()
	cache, err := library.NewCache(library.WithSpecDirs(dir.Root), library.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	for path, faults := range cache.GetErrors() {
		t.Errorf("%s: %v", path, faults)
	}
	spec := &oci.Spec{}
	if missing, err := cache.InjectDevices(spec, names...); err != nil {
		t.Fatalf("inject: %v; missing: %v", err, missing)
	}
	return spec
}

func mustWrite(t *testing.T, dir cdi.Dir, resource, id string, nodes ...cdi.Node) string {
	t.Helper()
	name, err := dir.Write(resource, id, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// The library looks each node up on the host, so the tests use nodes that every machine has.
func node(name, inContainer string) cdi.Node {
	return cdi.Node{Host: "/dev/" + name, Container: inContainer, Permissions: "rw"}
}

func TestRuntimeFindsDevices(t *testing.T) {
	dir := cdi.Dir{Root: filepath.Join(t.TempDir(), "cdi")}
	// Two pools in one container, which share a node.
	first := mustWrite(t, dir, "intel.com/sriov", "0000:02:10.0", node("null", "/dev/vfio/vfio"), node("zero", "/dev/vfio/7"))
	second := mustWrite(t, dir, "3.example.org/other_-", "0000:02:10.2", node("null", "/dev/vfio/vfio"), node("full", "/dev/vfio/8"))
	if first != "viaduct-sriov.github.io/device=intel.com_sriov-0000:02:10.0" {
		t.Errorf("the first is called %s", first)
	}
	spec := inject(t, dir, first, second)
	var got []string
	for _, d := range spec.Linux.Devices {
		got = append(got, d.Path)
	}
	if diff := cmp.Diff([]string{"/dev/vfio/7", "/dev/vfio/vfio", "/dev/vfio/8"}, got); diff != "" {
		t.Errorf("the container's nodes (-want +got):\n%s", diff)
	}
	for _, rule := range spec.Linux.Resources.Devices {
		if rule.Access != "rw" {
			t.Errorf("the container may %s, want rw", rule.Access)
		}
	}
}

func TestWriteReplaces(t *testing.T) {
	dir := cdi.Dir{Root: t.TempDir()}
	mustWrite(t, dir, "intel.com/sriov", "0000:02:10.0", node("null", "/dev/vfio/7"))
	name := mustWrite(t, dir, "intel.com/sriov", "0000:02:10.0", node("null", "/dev/vfio/8"))
	if got := inject(t, dir, name).Linux.Devices; len(got) != 1 || got[0].Path != "/dev/vfio/8" {
		t.Errorf("the container's nodes: %+v, want /dev/vfio/8", got)
	}
	if name := mustWrite(t, dir, "intel.com/sriov", "0000:02:10.0"); name != "" {
		t.Errorf("a device without nodes is called %s", name)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func files(t *testing.T, dir cdi.Dir) []string {
	t.Helper()
	entries, err := os.ReadDir(dir.Root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSweep(t *testing.T) {
	dir := cdi.Dir{Root: t.TempDir()}
	for _, id := range []string{"0000:02:10.0", "0000:02:10.2", "0000:02:10.4"} {
		mustWrite(t, dir, "intel.com/sriov", id, node("null", "/dev/vfio/7"))
	}
	for _, foreign := range []string{"nvidia.yaml", "other.json"} {
		if err := os.WriteFile(filepath.Join(dir.Root, foreign), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := dir.Sweep([]cdi.Device{
		{Resource: "intel.com/sriov", ID: "0000:02:10.2"},
		{Resource: "intel.com/other", ID: "0000:02:10.4"}, // in use, but as something else
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"viaduct_intel.com_sriov-0000:02:10.0.json", "viaduct_intel.com_sriov-0000:02:10.4.json"}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	want = []string{"nvidia.yaml", "other.json", "viaduct_intel.com_sriov-0000:02:10.2.json"}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if _, err := (cdi.Dir{Root: filepath.Join(dir.Root, "absent")}).Sweep(nil); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestHostileNames(t *testing.T) {
	dir := cdi.Dir{Root: t.TempDir()}
	for _, id := range []string{"", "../../etc/x", "a/b", "a b", "a\x00", "0000:02:10.0=", "ends-with-"} {
		if name, err := dir.Write("intel.com/sriov", id, []cdi.Node{node("null", "/dev/x")}); !errors.Is(err, cdi.ErrName) {
			t.Errorf("id %q: %s, %v, want ErrName", id, name, err)
		}
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("written: %v", left)
	}
}
