//go:build lab

package netlinks

import (
	"errors"
	"os"
	"testing"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// No driver of the lab's NICs is on devlink: the kernel is asked, and has no such device.
func TestDDPProfileOfNICsWithoutDevlink(t *testing.T) {
	entries, err := os.ReadDir("/sys/bus/pci/drivers/igb")
	if err != nil {
		t.Fatalf("run this test in the lab: %v", err)
	}
	asked := 0
	for _, e := range entries {
		if _, err := pci.ParseAddress(e.Name()); err != nil {
			continue // bind, unbind and the like
		}
		asked++
		if name, err := DDPProfile(e.Name()); name != "" || !errors.Is(err, ErrNoDevlink) {
			t.Errorf("%s: got %q, %v", e.Name(), name, err)
		}
	}
	if asked == 0 {
		t.Error("igb has no PF")
	}
}
