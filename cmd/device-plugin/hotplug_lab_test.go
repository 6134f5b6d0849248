//go:build lab

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

func TestPFUnplugged(t *testing.T) {
	d := pf(t)
	numVFs(t, d, 2)
	v0, v1 := vf(t, d, 0).Address.String(), vf(t, d, 1).Address.String()
	healthy := map[string]string{v0: "Healthy", v1: "Healthy"}
	n := start(t, fmt.Sprintf(`{"resourceList": [{"resourceName": "sriov", "selectors": {"rootDevices": [%q]}}]}`, d.Address))
	n.sees("VFs", healthy)

	write(t, filepath.Join("/sys/bus/pci/devices", d.Address.String(), "remove"), "1")
	t.Cleanup(func() { write(t, "/sys/bus/pci/rescan", "1") }) // harmless if it was done already
	n.sees("PF unplugged", map[string]string{v0: "Unhealthy", v1: "Unhealthy"})

	write(t, "/sys/bus/pci/rescan", "1")
	kubelettest.Eventually(t, "the PF is back, with its driver", func() bool {
		now, err := pci.Read("/", d.Address)
		return err == nil && now.Driver == "igb"
	})
	numVFs(t, d, 2)
	n.sees("PF plugged in again, with VFs", healthy)
}

// A pool that selects by driver follows a VF from one driver to another and back.
func TestVFBoundToVFIO(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "modprobe", "vfio-pci").CombinedOutput(); err != nil {
		t.Fatalf("modprobe vfio-pci: %v: %s", err, out)
	}
	d := pf(t)
	numVFs(t, d, 2)
	v := vf(t, d, 0).Address
	n := start(t, fmt.Sprintf(`{"resourceList": [{"resourceName": "sriov", "selectors": {"rootDevices": [%q], "drivers": ["vfio-pci"]}}]}`, d.Address))
	bind(t, v, "vfio-pci")
	n.sees("VF bound to vfio-pci", map[string]string{v.String(): "Healthy"})
	bind(t, v, "igbvf")
	n.sees("VF bound to igbvf again", map[string]string{})
}

// bind takes a VF from its driver and gives it to another.
func bind(t *testing.T, a pci.Address, driver string) {
	t.Helper()
	dir := filepath.Join("/sys/bus/pci/devices", a.String())
	write(t, filepath.Join(dir, "driver/unbind"), a.String())
	write(t, filepath.Join(dir, "driver_override"), driver)
	write(t, "/sys/bus/pci/drivers_probe", a.String())
	write(t, filepath.Join(dir, "driver_override"), "\n") // back to whichever driver fits
	now, err := pci.Read("/", a)
	if err != nil || now.Driver != driver {
		t.Fatalf("bind %s to %s: it has driver %q, %v", a, driver, now.Driver, err)
	}
}
