//go:build lab

package netlinks

import (
	"os"
	"os/exec"
	"testing"
)

// netdevsim is the one driver here that tells versions over devlink; igb, on the PCI bus, knows no devlink.
func TestRunningVersions(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "modprobe", "netdevsim").CombinedOutput(); err != nil {
		t.Fatalf("modprobe netdevsim: %v\n%s", err, out)
	}
	if err := os.WriteFile("/sys/bus/netdevsim/new_device", []byte("7 1"), 0o200); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile("/sys/bus/netdevsim/del_device", []byte("7"), 0o200); err != nil {
			t.Error(err)
		}
	})
	versions, err := runningVersions("netdevsim", "netdevsim7")
	if err != nil || versions["fw.mgmt"] != "10.20.30" {
		t.Errorf("netdevsim: got %v, %v", versions, err)
	}
	if versions, err = runningVersions("netdevsim", "netdevsim8"); err != nil || versions != nil {
		t.Errorf("a device that is not there: got %v, %v", versions, err)
	}
	entries, err := os.ReadDir("/sys/bus/pci/drivers/igb")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, e := range entries {
		if len(e.Name()) == len("0000:00:00.0") {
			asked++
			if name, err := DDPProfile(e.Name()); name != "" || err != nil {
				t.Errorf("%s: got %q, %v", e.Name(), name, err)
			}
		}
	}
	if asked == 0 {
		t.Error("no PF of igb: run this test in the lab")
	}
}
