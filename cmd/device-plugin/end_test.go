package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

// Who is asked to end has not failed, whatever the reason given: Go 1.26.0 names the signal, and does not say that it is a
// cancellation.
func TestAskedToEnd(t *testing.T) {
	kubelet := kubelettest.New(t)
	ctx, end := context.WithCancelCause(t.Context())
	end(errors.New("terminated signal received"))
	err := run(ctx, []string{
		"-root", pcitest.New(t).Root, "-config-file", filepath.Join(t.TempDir(), "none.json"), "-kubelet-root", kubelet.Dir,
		"-device-plugin-dir", kubelet.Plugins(), "-device-info-dir", t.TempDir(), "-metrics-address", "127.0.0.1:0",
	}, func(string) string { return "" }, io.Discard, t.Output())
	if err != nil {
		t.Errorf("it ends with %v", err)
	}
}
