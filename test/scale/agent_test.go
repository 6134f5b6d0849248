//go:build scale

package scale

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
)

// An agent is meta-agent as it runs on a node, with its line to the API server.
type agent struct {
	node    string
	wire    *wire
	metrics string
	client  agentapi.Client
	pid     int
}

// startAgent returns when the agent knows all definitions.
func startAgent(t *testing.T, c *cluster, program, node string, definitions int) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{node: node, wire: newWire(t, c.server), metrics: freeAddress(t), client: agentapi.Client{Socket: dir + "/agent.sock"}}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, bytes.ReplaceAll(c.kubeconfig, []byte(c.server), []byte(a.wire.address)), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "--node-name="+node, "--kubeconfig="+kubeconfig, "--socket="+dir+"/agent.sock",
		"--cni-conf-dir="+dir, "--cni-bin-dir="+dir, "--networks-dir="+dir, "--journal-dir="+dir+"/pods",
		"--pod-resources-socket="+dir+"/kubelet.sock", "--metrics-address="+a.metrics)
	cmd.Stderr = &stderr
	end(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, cmd, &stderr) })
	a.pid = cmd.Process.Pid
	a.knows(t, "viaduct_agent_definitions", definitions)
	return a
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// knows waits until a gauge of the agent has a value.
func (a *agent) knows(t *testing.T, gauge string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is %d on %s", gauge, want, a.node), func() error {
		got, err := a.metric(t, gauge)
		if err == nil && got != want {
			err = fmt.Errorf("it is %d", got)
		}
		return err
	})
}

// metric is the sum over a metric's labels.
func (a *agent) metric(t *testing.T, name string) (sum int, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		var value int
		if _, err := fmt.Sscan(rest[strings.LastIndex(rest, " ")+1:], &value); err != nil {
			return 0, fmt.Errorf("read %q: %w", line, err)
		}
		found, sum = true, sum+value
	}
	if !found {
		return 0, fmt.Errorf("the agent has no metric %s", name)
	}
	return sum, nil
}

// requests is how many the agent has sent to the API server.
func (a *agent) requests(t *testing.T) int {
	t.Helper()
	n, err := a.metric(t, "viaduct_agent_api_requests_total")
	if err != nil {
		t.Fatal(err)
	}
	return n
}
