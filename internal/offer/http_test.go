package offer

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
)

// What /healthz asks of each socket: one that somebody listens on, but who does not answer, is not well.
func TestPing(t *testing.T) {
	dir := kubelettest.New(t).Dir // short enough for a socket's path
	deaf := filepath.Join(dir, "deaf.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", deaf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // nobody was let in
	for what, socket := range map[string]string{"deaf": deaf, "missing": filepath.Join(dir, "missing.sock")} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := ping(ctx, socket); err == nil {
				t.Error("it is said to answer")
			}
		})
	}
}
