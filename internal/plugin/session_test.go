package plugin

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A kubelet that has asked who we are, and takes a while to ask for devices, has not left us alone.
func TestSlowKubelet(t *testing.T) {
	kubelet := filepath.Join(t.TempDir(), "kubelet.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", kubelet)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n := &session{kubelet: kubelet, timing: Timing{Unwatched: time.Hour}, since: time.Now().Add(-2 * time.Hour)}
	if err := n.broken(t.Context()); !errors.Is(err, errUnwatched) {
		t.Errorf("never asked: %v, want that it is unwatched", err)
	}
	r := registrar{name: "intel.com/sriov", session: n}
	if _, err := r.GetInfo(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := n.broken(t.Context()); err != nil {
		t.Errorf("asked a moment ago: %v", err)
	}
}
