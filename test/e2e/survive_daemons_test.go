//go:build cluster

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// faults are all that TestSurvive knows, in the order of CI.
func faults() []fault {
	return []fault{
		{name: "kubelet restarted", strike: killed("kubelet")},
		{name: "containerd restarted", strike: killed("containerd")},
		{name: "device plugin killed", strike: killed("device-plugin")},
		{name: "agent killed", strike: killed("meta-agent")},
		{name: "stub killed in an ADD", strike: killStub},
		{name: "kubelet and device plugin killed", strike: killed("kubelet", "device-plugin"), rest: true},
	}
}

// killed ends the node's processes of these names as crashes do. Somebody starts each again.
func killed(names ...string) func(*testing.T, *survival) {
	return func(t *testing.T, _ *survival) {
		for _, name := range names {
			kill(t, name)
		}
	}
}

// killStub kills meta-cni while it adds a pod: at once in CI, otherwise anywhere in its life.
func killStub(t *testing.T, s *survival) {
	adds := func(pid int) bool {
		environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		return err == nil && strings.Contains(string(environ), "CNI_COMMAND=ADD\x00") && strings.Contains(string(environ), "K8S_POD_NAMESPACE="+namespace+";")
	}
	var after time.Duration
	if *surviveFor > 0 {
		after = time.Duration(s.random.IntN(400)) * time.Millisecond
	}
	catch(t, "meta-cni", func(pid int) bool {
		if !adds(pid) {
			return false
		}
		time.Sleep(after)
		return adds(pid) && syscall.Kill(pid, syscall.SIGKILL) == nil
	})
}
