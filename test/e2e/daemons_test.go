//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// kill ends the node's process of this name as a crash does, and waits for the next one.
func kill(t *testing.T, name string) {
	t.Helper()
	before := processes(t, name)
	if len(before) != 1 {
		t.Fatalf("%d processes called %s, want one", len(before), name)
	}
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, name+" to run again", func(context.Context) error {
		now := processes(t, name)
		if len(now) != 1 || now[0] == before[0] {
			return fmt.Errorf("its processes: %v; killed: %v", now, before)
		}
		return nil
	})
}

func processes(t *testing.T, name string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		comm, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue // it ended meanwhile, or is another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// catch waits for a process of this name for which ok holds. It looks often: a CNI plugin lives for a fraction of a second.
func catch(t *testing.T, name string, ok func(pid int) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if slices.ContainsFunc(processes(t, name), ok) {
			return
		}
	}
	t.Fatalf("no such process called %s was seen in %s", name, patience)
}

// pluginIsReady asks where the kubelet does.
func pluginIsReady(ctx context.Context) error {
	_, err := ask(ctx, pluginPort, "readyz")
	return err
}

// Where the daemons say how they are.
const pluginPort, agentPort = 9808, 9478

func ask(ctx context.Context, port int, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/%s", port, path), nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("port %d, /%s: %s: %s", port, path, response.Status, text)
	}
	return string(text), err
}

// plans are how often stubs have asked the agent for a pod's networks, line by line.
func plans(t *testing.T) (lines []string) {
	t.Helper()
	text, err := ask(t.Context(), agentPort, "metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "viaduct_agent_requests_total{") && strings.Contains(line, `kind="plan"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// container is what must not change of a pod's container while it runs.
func (p pod) container(t *testing.T) (same struct{ ID, Phase string }) {
	t.Helper()
	got, err := p.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same.Phase = string(got.Status.Phase)
	if len(got.Status.ContainerStatuses) == 1 {
		same.ID = got.Status.ContainerStatuses[0].ContainerID
	}
	return same
}

// rejected says why the kubelet did not admit a pod, for good; empty: it did, or may yet.
func rejected(p *corev1.Pod) string {
	if p.Status.Phase != corev1.PodFailed {
		return ""
	}
	return p.Status.Reason + ": " + p.Status.Message
}
