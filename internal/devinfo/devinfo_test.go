package devinfo_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
)

var vf = devinfo.Info{
	Type: "pci",
	PCI:  &devinfo.PCI{Address: "0000:02:10.0", PFAddress: "0000:02:00.0", VhostNet: "/dev/vhost-net"},
}

func TestWriteCopyRemove(t *testing.T) {
	dir := devinfo.Dir{Root: filepath.Join(t.TempDir(), "devinfo")}
	if err := dir.WriteDevice("intel.com/sriov", "0000:02:10.0", vf); err != nil {
		t.Fatal(err)
	}
	// The bytes are what other programs read: they are the contract, not our own reading of them.
	data, err := os.ReadFile(filepath.Join(dir.Root, "dp/intel.com-sriov-0000:02:10.0-device.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:02:10.0","pf-pci-address":"0000:02:00.0","vhost-net":"/dev/vhost-net"}}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}

	path, err := dir.CopyForPod("intel.com/sriov", "0000:02:10.0", "default-net-a-abc-net1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(filepath.Join(dir.Root, "cni/default-net-a-abc-net1-device.json"), path); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	got, err := dir.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	wantInfo := vf
	wantInfo.Version = devinfo.Version
	if diff := cmp.Diff(wantInfo, got); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}

	for range 2 { // a second removal is no error
		if err := dir.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dir.Read(path); !errors.Is(err, devinfo.ErrNotExist) {
		t.Errorf("read after remove: %v, want ErrNotExist", err)
	}
	left, err := filepath.Glob(filepath.Join(dir.Root, "*", ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	dir := devinfo.Dir{Root: t.TempDir()}
	if err := dir.WriteDevice("intel.com/sriov", "0000:02:10.0", vf); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(filepath.Dir(dir.Root), "x-device.json")
	tests := map[string]struct {
		call func() error
		want error
	}{
		"id climbs out":       {func() error { return dir.WriteDevice("intel.com/sriov", "../../etc/x", vf) }, devinfo.ErrName},
		"resource climbs out": {func() error { return dir.WriteDevice("../x", "0000:02:10.0", vf) }, devinfo.ErrName},
		"empty id":            {func() error { return dir.WriteDevice("intel.com/sriov", "", vf) }, devinfo.ErrName},
		"too long":            {func() error { return dir.WriteDevice("intel.com/sriov", strings.Repeat("a", 300), vf) }, devinfo.ErrName},
		"name climbs out": {func() error {
			_, err := dir.CopyForPod("intel.com/sriov", "0000:02:10.0", "../x")
			return err
		}, devinfo.ErrName},
		"no such device": {func() error {
			_, err := dir.CopyForPod("intel.com/sriov", "0000:02:10.2", "x")
			return err
		}, devinfo.ErrNotExist},
		"remove outside":  {func() error { return dir.Remove(outside) }, devinfo.ErrName},
		"remove a folder": {func() error { return dir.Remove(filepath.Join(dir.Root, "dp")) }, devinfo.ErrName},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := test.call(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestReadCorrupt(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "no JSON": "{", "no type": "{}", "huge": strings.Repeat(" ", 2<<20)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x-device.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := (devinfo.Dir{}).Read(path); !errors.Is(err, devinfo.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestDevices(t *testing.T) {
	dir := devinfo.Dir{Root: filepath.Join(t.TempDir(), "devinfo")}
	if ids, err := dir.Devices("intel.com/sriov"); err != nil || len(ids) > 0 {
		t.Errorf("no folder: %v, %v", ids, err)
	}
	for _, resource := range []string{"intel.com/sriov", "intel.com/sriov-dpdk", "intel.com/other"} {
		if err := dir.WriteDevice(resource, "0000:02:10.0", vf); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := dir.Devices("intel.com/sriov")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0000:02:10.0"}, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestResources(t *testing.T) {
	dir := devinfo.Dir{Root: filepath.Join(t.TempDir(), "devinfo")}
	if got, err := dir.Resources(); err != nil || got != nil {
		t.Errorf("at first: %v, %v", got, err)
	}
	want := []string{"example.org/b-c", "intel.com/sriov"}
	if err := dir.SetResources(want); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Resources()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for name, content := range map[string]string{"cut off": `{"version": 1, "res`, "of another version": `{"version": 2}`, "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir.Root, "dp/.viaduct"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := dir.Resources(); !errors.Is(err, devinfo.ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
