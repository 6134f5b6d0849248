package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/memtest"
	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// The program's memory with 16 PFs of 256 VFs, 4,112 functions, in 32 pools that a kubelet watches. The VFs are in user
// space: interfaces would have to be among this machine's links.
func TestMemory(t *testing.T) {
	const (
		pfs, vfs = 16, 256
		mostRSS  = 25 << 10 // KiB
	)
	dir := t.TempDir()
	program := memtest.Build(t, ".")
	tree := pcitest.New(t)
	tree.AddLargeVFIO(pfs, vfs)
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, halfPools(t, pfs, vfs), 0o600); err != nil {
		t.Fatal(err)
	}
	kubelet := kubelettest.New(t)
	kubelet.Start()
	t.Cleanup(kubelet.Stop)
	var stderr bytes.Buffer
	plugin := exec.CommandContext(t.Context(), program, "-root", tree.Root, "-config-file", config, "-kubelet-root", kubelet.Dir,
		"-device-plugin-dir", kubelet.Plugins(), "-device-info-dir", filepath.Join(dir, "devinfo"), "-metrics-address", "")
	plugin.Stderr = &stderr
	plugin.Cancel = func() error { return plugin.Process.Signal(syscall.SIGTERM) }
	plugin.WaitDelay = 30 * time.Second
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	offered := 0
	count := func() bool {
		offered = 0
		for pool := range 2 * pfs {
			offered += len(kubelet.Devices(fmt.Sprintf("intel.com/pool%d", pool)))
		}
		return offered == pfs*vfs
	}
	// The test's context ends before this, and with it the program, by SIGTERM.
	t.Cleanup(func() {
		if err := plugin.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v: %s", err, stderr.String())
		}
	})
	kubelettest.Eventually(t, "the kubelet has every VF", count)
	rss, anon := memtest.Resident(t, plugin.Process.Pid)
	t.Logf("RSS %d KiB, of it %d anonymous, with %d devices in %d pools", rss, anon, offered, 2*pfs)
	if rss > mostRSS {
		t.Errorf("RSS %d KiB, at most %d", rss, mostRSS)
	}
}

// halfPools has two pools for each PF, each with half of its VFs.
func halfPools(t *testing.T, pfs, vfs int) []byte {
	t.Helper()
	var pools []map[string]any
	for p := range 2 * pfs {
		first := p % 2 * vfs / 2
		pools = append(pools, map[string]any{
			"resourceName": fmt.Sprintf("pool%d", p),
			"selectors":    map[string]any{"pfNames": []string{fmt.Sprintf("p%d#%d-%d", p/2, first, first+vfs/2-1)}},
		})
	}
	data, err := json.Marshal(map[string]any{"resourceList": pools})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
