//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestCDI has containerd give a container the nodes of a vfio VF by CDI, beside a VF of another pool that needs none. CDI
// stays on for the tests after this one: they have to pass either way, and a roll-out takes a minute.
func TestCDI(t *testing.T) {
	vf := freeVF(t)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		err := errors.Join(bind(vf, ""), poll(ctx, deployed))
		// The driver made a new interface for the VF, which has another MAC.
		if err := errors.Join(err, takeVFsForBaseline()); err != nil {
			t.Errorf("waiting for the node to offer all its VFs again: %v", err)
		}
	})
	if err := bind(vf, "vfio-pci"); err != nil {
		t.Fatal(err)
	}
	if err := kubectl(t.Context(), "apply", "-k", "testdata/cdi"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to offer the VF for DPDK", func(ctx context.Context) error {
		n, err := offers(ctx, dpdkResource)
		if err == nil && n != 1 {
			err = fmt.Errorf("it offers %d", n)
		}
		return errors.Join(err, pluginIsReady(ctx))
	})

	p := pod{name: "dpdk", vfs: 1, dpdk: 1}
	p.create(t)
	p.running(t)
	group, err := os.Readlink(filepath.Join("/sys/bus/pci/devices", vf, "iommu_group"))
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"/dev/vfio/vfio", "/dev/vfio/" + filepath.Base(group)} {
		if _, err := p.exec(t.Context(), "sh", "-c", "test -c "+node); err != nil {
			t.Errorf("the container has no %s: %v", node, err)
		}
	}
	spec := "/var/run/cdi/viaduct_intel.com_dpdk-" + vf + ".json"
	found, err := filepath.Glob("/var/run/cdi/viaduct_*")
	if err != nil || len(found) != 1 || found[0] != spec {
		t.Errorf("CDI specifications: %v, %v, want %s alone", found, err, spec)
	}
	p.remove(t.Context(), t)
	eventually(t, "the CDI specification to go", func(context.Context) error {
		if _, err := os.Stat(spec); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, errors.New("it is there"))
		}
		return nil
	})
}

// freeVF is a VF that no pod has.
func freeVF(t *testing.T) string {
	t.Helper()
	for address, vf := range mustLook(t).VFs {
		if vf.Link != nil {
			return address
		}
	}
	t.Fatal("no VF is free")
	return ""
}

// bind gives the VF to a driver; empty: to the one that takes it by itself.
func bind(vf, driver string) error {
	dir := filepath.Join("/sys/bus/pci/devices", vf)
	for _, write := range []struct{ path, value string }{
		{filepath.Join(dir, "driver_override"), driver + "\n"},
		{filepath.Join(dir, "driver/unbind"), vf},
		{"/sys/bus/pci/drivers_probe", vf},
	} {
		if err := os.WriteFile(write.path, []byte(write.value), 0o200); err != nil {
			return fmt.Errorf("bind %s to %q: %w", vf, driver, err)
		}
	}
	return nil
}
