package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/memtest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// The agent's memory with 1,000 definitions and 250 pods, after each pod was planned and reported. A bare client-go
// process that holds these objects has 37 MB, 18 of them anonymous.
func TestMemory(t *testing.T) {
	const (
		definitions, pods = 1000, 250
		mostRSS, mostAnon = 50 << 10, 25 << 10 // KiB
	)
	dir := t.TempDir()
	program := memtest.Build(t, "../../cmd/meta-agent")
	api, kubelet := newAPIServer(t), newKubelet(t)
	for i := range definitions {
		api.putNAD(fmt.Sprintf("net-%d", i), "intel.com/sriov",
			fmt.Sprintf(`{"cniVersion":"1.0.0","type":"sriov","vlan":%d,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.56.%d.0/24"}]]}}`, i%4000+1, i%256))
	}
	pod := func(i int) network.Pod {
		return network.Pod{Namespace: "shop", Name: fmt.Sprintf("till-%d", i), UID: fmt.Sprintf("uid-%d", i)}
	}
	for i := range pods {
		kubelet.give(pod(i), "intel.com/sriov", fmt.Sprintf("0000:02:%02x.0", i))
		api.putPod(pod(i), map[string]string{network.NetworksAnnotation: fmt.Sprintf("net-%d", i), "large": strings.Repeat("x", 4000)})
	}
	kubeconfig, address := filepath.Join(dir, "kubeconfig"), freeAddress(t)
	writeFile(t, kubeconfig, fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":%q}}],"users":[{"name":"u","user":{}}]}`, api.http.URL), 0o600)
	var stderr bytes.Buffer
	agent := exec.CommandContext(t.Context(), program, "--node-name=node-1", "--kubeconfig="+kubeconfig, "--socket="+dir+"/agent.sock",
		"--cni-conf-dir="+dir, "--cni-bin-dir="+dir, "--networks-dir="+dir, "--journal-dir="+dir+"/pods",
		"--pod-resources-socket="+kubelet.socket, "--metrics-address="+address)
	agent.Stderr = &stderr
	agent.Cancel = func() error { return agent.Process.Signal(syscall.SIGTERM) }
	agent.WaitDelay = 30 * time.Second
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	// The test's context ends before this, and with it the agent, by SIGTERM.
	t.Cleanup(func() {
		if err := agent.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the agent ended with %v: %s", err, stderr.String())
		}
	})
	client := agentapi.Client{Socket: dir + "/agent.sock"}
	eventually(t, func() error {
		if _, err := client.Plan(t.Context(), agentapi.Plan{Pod: pod(0), Annotations: map[string]string{}}); err != nil {
			return err
		}
		_, metrics := get(t, address, "/metrics")
		for _, want := range []string{fmt.Sprint("viaduct_agent_definitions ", definitions), fmt.Sprint("viaduct_agent_pods ", pods)} {
			if !strings.Contains(metrics, want+"\n") {
				return fmt.Errorf("no %s yet", want)
			}
		}
		return nil
	})
	api.requests()
	// All the plans at once, as after a boot. Reports wait for one another: each has two seconds, and what is late the agent
	// writes from the journal, of which there is none here.
	var wg sync.WaitGroup
	var report sync.Mutex
	for i := range pods {
		wg.Go(func() {
			plan, err := client.Plan(t.Context(), agentapi.Plan{Pod: pod(i)})
			if err != nil || len(plan.Attachments) != 1 {
				t.Errorf("pod %d: %v, %v", i, plan, err)
				return
			}
			report.Lock()
			defer report.Unlock()
			if err := client.Report(t.Context(), agentapi.Report{Pod: pod(i), Status: json.RawMessage(`[{"name":"shop/net"}]`)}); err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if asked := api.requests(); len(asked) != pods {
		t.Errorf("%d requests to the API server for %d pods", len(asked), pods)
	}
	rss, anon := memtest.Resident(t, agent.Process.Pid)
	t.Logf("RSS %d KiB, anonymous %d KiB", rss, anon)
	if rss > mostRSS || anon > mostAnon {
		t.Errorf("RSS %d KiB, anonymous %d KiB; at most %d and %d", rss, anon, mostRSS, mostAnon)
	}
}
