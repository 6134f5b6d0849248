package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sriovConf = `{"cniVersion":"1.0.0","type":"sriov","vlan":100}`

// A node is a whole agent, with what it talks to.
type node struct {
	api     *apiServer
	kubelet *kubelet
	config  Config
	client  agentapi.Client
	stop    func()
}

// startNode runs an agent and waits until it is ready. It is stopped, and its error checked, at the test's end.
func startNode(t *testing.T, prepare func(*node)) *node {
	t.Helper()
	n := newNode(t, prepare)
	n.start(t)
	return n
}

func newNode(t *testing.T, prepare func(*node)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{api: newAPIServer(t), kubelet: newKubelet(t)}
	n.config = Config{
		NodeName: "node-1", API: n.api.config(), Socket: filepath.Join(dir, "agent", "agent.sock"),
		ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), NetworksDir: filepath.Join(dir, "networks"),
		JournalDir: filepath.Join(dir, "pods"), PodResourcesSocket: n.kubelet.socket, Log: testLog(t),
		LookupTimeout: 2 * time.Second,
	}
	for _, d := range []string{n.config.ConfDir, n.config.BinDir, n.config.NetworksDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(n.config.BinDir, cniconf.Plugin), "", 0o755)
	writeFile(t, filepath.Join(n.config.ConfDir, "10-bridge.conflist"), `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`, 0o644)
	n.client = agentapi.Client{Socket: n.config.Socket}
	if prepare != nil {
		prepare(n)
	}
	return n
}

func (n *node) start(t *testing.T) {
	t.Helper()
	n.run(t)
	// A test's second agent finds the first one's file in place: wait for its socket too.
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(n.config.ConfDir, cniconf.FileName)); err != nil {
			return err
		}
		_, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: map[string]string{}})
		return err
	})
}

// run is start without the wait.
func (n *node) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, n.config) }()
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended with: %v", err)
		}
	}
	t.Cleanup(n.stop)
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func networks(value string) map[string]string {
	return map[string]string{network.NetworksAnnotation: value}
}

// wantCode asks for a plan and checks the refusal.
func (n *node) wantCode(t *testing.T, pod network.Pod, annotations map[string]string, code uint, words ...string) {
	t.Helper()
	plan, err := n.client.Plan(t.Context(), agentapi.Plan{ContainerID: "c", Pod: pod, Annotations: annotations})
	var refused *agentapi.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got the plan %v and the error %v, want a refusal", plan, err)
	}
	if refused.Code != code {
		t.Errorf("code %d, want %d: %v", refused.Code, code, refused)
	}
	for _, w := range words {
		if !strings.Contains(refused.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, refused)
		}
	}
}

// waitCached waits until the informers have what the API server has.
func (n *node) waitCached(t *testing.T, pod network.Pod, annotations map[string]string) {
	t.Helper()
	eventually(t, func() error {
		n.api.requests()
		if _, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod, Annotations: annotations}); err != nil {
			return err
		}
		if asked := n.api.requests(); len(asked) > 0 {
			return fmt.Errorf("the API server was asked %v", asked)
		}
		return nil
	})
}

// A pod with two SR-IOV networks: planned from the caches, without a request; reported with one.
func TestPodFromPlanToStatus(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putNAD("a", "intel.com/sriov", sriovConf)
		n.api.putPod(pod1, networks("a,a"))
		n.kubelet.give(pod1, "intel.com/sriov", "0000:02:10.2", "0000:02:10.0")
	})
	n.waitCached(t, pod1, nil)
	for name, annotations := range map[string]map[string]string{"from the runtime": networks("a,a"), "from the informer": nil} {
		plan, err := n.client.Plan(t.Context(), agentapi.Plan{ContainerID: "c1", Pod: pod1, Annotations: annotations})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, a := range plan.Attachments {
			got = append(got, fmt.Sprint(a.Name, " ", a.IfName, " ", a.Device.ID))
		}
		if d := cmp.Diff([]string{"shop/a net1 0000:02:10.0", "shop/a net2 0000:02:10.2"}, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	// The informer is slower than the next report.
	n.api.set(func() { n.api.hidden["shop/till-0"] = true })
	status, err := json.MarshalIndent([]map[string]string{{"name": "pods"}, {"name": "shop/a"}}, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.client.Report(t.Context(), agentapi.Report{Pod: pod1, Status: status}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(status), n.api.annotation(pod1, network.StatusAnnotation)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff("a,a", n.api.annotation(pod1, network.NetworksAnnotation)); d != "" {
		t.Errorf("another annotation changed: %s", d)
	}
	if err := n.client.Report(t.Context(), agentapi.Report{Pod: pod1, Status: status}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"PATCH /api/v1/namespaces/shop/pods/till-0/status"}, n.api.requests()); d != "" {
		t.Errorf("requests to the API server: %s", d)
	}
}

// An empty map is the runtime's answer: the pod has no annotations. The informer is not asked.
func TestEmptyAnnotationsAreAnAnswer(t *testing.T) {
	n := startNode(t, func(n *node) { n.api.putPod(pod1, networks("a")) })
	plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: map[string]string{}})
	if err != nil || len(plan.Attachments) != 0 {
		t.Errorf("got %v, %v; want no networks", plan, err)
	}
}

func TestPodIdentity(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putPod(pod1, networks("a"))
		n.api.putPod(network.Pod{Namespace: "shop", Name: "static-node-1", UID: "mirror-uid"},
			map[string]string{network.NetworksAnnotation: "a", mirrorAnnotation: "static-uid"})
	})
	n.waitCached(t, pod1, nil)
	t.Run("another pod of the name", func(t *testing.T) {
		other := pod1
		other.UID = "uid-of-another"
		n.wantCode(t, other, nil, codeTryAgain, "uid-1", "uid-of-another")
		if d := cmp.Diff([]string{"GET /api/v1/namespaces/shop/pods/till-0"}, n.api.requests()); d != "" {
			t.Error(d)
		}
		err := n.client.Report(t.Context(), agentapi.Report{Pod: other, Status: json.RawMessage(`[]`)})
		if err == nil || n.api.annotation(pod1, network.StatusAnnotation) != "" {
			t.Errorf("another pod's status was published: %v", err)
		}
	})
	t.Run("no such pod", func(t *testing.T) {
		n.wantCode(t, network.Pod{Namespace: "shop", Name: "gone", UID: "x"}, nil, codeTryAgain, "shop/gone")
	})
	t.Run("a static pod", func(t *testing.T) {
		static := network.Pod{Namespace: "shop", Name: "static-node-1", UID: "static-uid"}
		plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: static})
		if err != nil || len(plan.Attachments) != 1 {
			t.Fatalf("got %v, %v", plan, err)
		}
		if err := n.client.Report(t.Context(), agentapi.Report{Pod: static, Status: json.RawMessage(`[1]`)}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff("[\n    1\n]", n.api.annotation(static, network.StatusAnnotation)); d != "" {
			t.Error(d)
		}
	})
	t.Run("a static pod that the informer has not seen", func(t *testing.T) {
		n.api.set(func() { n.api.hidden["shop/late-node-1"] = true })
		n.api.putPod(network.Pod{Namespace: "shop", Name: "late-node-1", UID: "mirror-2"}, map[string]string{mirrorAnnotation: "static-2"})
		late := network.Pod{Namespace: "shop", Name: "late-node-1", UID: "static-2"}
		if err := n.client.Report(t.Context(), agentapi.Report{Pod: late, Status: json.RawMessage(`[2]`)}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff("[\n    2\n]", n.api.annotation(late, network.StatusAnnotation)); d != "" {
			t.Error(d)
		}
	})
}

func TestDefinitionNotCached(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putPod(pod1, nil)
		n.api.hidden["shop/late"] = true
		n.api.putNAD("late", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	})
	n.waitCached(t, pod1, nil)
	n.api.set(func() { n.api.delay = 300 * time.Millisecond })
	plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks("late,late")})
	if err != nil || len(plan.Attachments) != 2 {
		t.Fatalf("got %v, %v", plan, err)
	}
	const nad = "/apis/k8s.cni.cncf.io/v1/namespaces/shop/network-attachment-definitions/"
	if d := cmp.Diff([]string{"GET " + nad + "late"}, n.api.requests()); d != "" {
		t.Error(d)
	}
	n.wantCode(t, pod1, networks("none"), codeInvalidConfig, "pod shop/till-0", "no NetworkAttachmentDefinition shop/none")
}

// NAD changes apply to new pods at once.
func TestDefinitionChanges(t *testing.T) {
	n := startNode(t, func(n *node) { n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`) })
	n.waitCached(t, pod1, networks("a"))
	n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"macvlan"}`)
	eventually(t, func() error {
		plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks("a")})
		if err == nil && !strings.Contains(string(plan.Attachments[0].Config), "macvlan") {
			err = fmt.Errorf("the old one: %s", plan.Attachments[0].Config)
		}
		return err
	})
	n.api.putNAD("a", "", `{"type":`)
	eventually(t, func() error {
		_, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks("a")})
		if err == nil || !strings.Contains(err.Error(), "spec.config") {
			return fmt.Errorf("broken JSON in the definition: %w", err)
		}
		return nil
	})
	n.api.remove(nadPath, "shop/a")
	eventually(t, func() error {
		_, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks("a")})
		if err == nil || !strings.Contains(err.Error(), "no NetworkAttachmentDefinition") {
			return fmt.Errorf("the definition is gone: %w", err)
		}
		return nil
	})
}

func TestDefinitionOnDisk(t *testing.T) {
	n := startNode(t, func(n *node) { n.api.putNAD("disk", "", "") })
	n.wantCode(t, pod1, networks("disk"), codeInvalidConfig, "no spec.config", "disk")
	dir := n.config.NetworksDir
	writeFile(t, filepath.Join(dir, "1.conf"), `{"cniVersion":"1.0.0","name":"disk","type":"bridge"}`, 0o600)
	writeFile(t, filepath.Join(dir, "0.conf"), `{"cniVersion":"1.0.0","name":"other","type":"ptp"}`, 0o600)
	writeFile(t, filepath.Join(dir, "broken.conf"), `{`, 0o600)
	of := func() string {
		plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks("disk")})
		if err != nil {
			t.Fatal(err)
		}
		return string(plan.Attachments[0].Config)
	}
	if got := of(); !strings.Contains(got, "bridge") {
		t.Error(got)
	}
	writeFile(t, filepath.Join(dir, "9.conflist"), `{"cniVersion":"1.0.0","name":"disk","plugins":[{"type":"macvlan"}]}`, 0o600)
	if got := of(); !strings.Contains(got, "macvlan") {
		t.Errorf("a .conflist comes before a .conf: %s", got)
	}
}

// With the API server away, pods whose objects are cached start, the rest are retried, and it recovers by itself.
func TestAPIServerAway(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putPod(pod1, networks("a"))
	})
	n.waitCached(t, pod1, nil)
	n.api.goAway()
	if _, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1}); err != nil {
		t.Errorf("everything is cached: %v", err)
	}
	n.wantCode(t, pod1, networks("b"), codeTryAgain, "the API server does not answer", "shop/b")
	n.wantCode(t, pod2, nil, codeTryAgain, "the API server does not answer", "shop/till-1")
	if err := n.client.Report(t.Context(), agentapi.Report{Pod: pod1, Status: json.RawMessage(`[]`)}); err == nil {
		t.Error("a report that nobody could write was answered with success")
	}
	n.api.comeBack()
	n.api.putNAD("b", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	n.waitCached(t, pod1, networks("b"))
}

// The agent starts without an API server, keeps the CNI configuration, and is ready when it has heard of everything.
func TestStartWithoutAPIServer(t *testing.T) {
	address := freeAddress(t)
	n := startNode(t, func(n *node) {
		n.config.MetricsAddress = address
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.goAway()
	})
	n.wantCode(t, pod1, networks("a"), codeTryAgain, "the API server does not answer")
	if code, body := get(t, address, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("ready without definitions: %d %s", code, body)
	}
	if code, body := get(t, address, "/healthz"); code != http.StatusOK {
		t.Errorf("not alive: %d %s", code, body)
	}
	n.api.comeBack()
	eventually(t, func() error {
		if code, body := get(t, address, "/readyz"); code != http.StatusOK {
			return fmt.Errorf("not ready: %d %s", code, body)
		}
		return nil
	})
	n.waitCached(t, pod1, networks("a"))
	_, metrics := get(t, address, "/metrics")
	for _, want := range []string{
		"viaduct_agent_synced 1", "viaduct_agent_definitions 1", "viaduct_agent_cni_configuration_in_place 1", "viaduct_agent_cni_configuration_restored_total 0",
		`viaduct_agent_requests_total{code="11",kind="plan"}`, `viaduct_agent_api_requests_total{code="200",method="GET"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics do not have %s", want)
		}
	}
	n.stop()
	if _, err := os.Stat(filepath.Join(n.config.ConfDir, cniconf.FileName)); err != nil {
		t.Errorf("a stopped agent leaves the CNI configuration: %v", err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l := newListener(t)
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// What an author can mend is said on the pod, once for each fault.
func TestEvents(t *testing.T) {
	n := startNode(t, nil)
	for range 3 {
		n.wantCode(t, pod1, networks("a,"), codeInvalidConfig, "[1]")
	}
	n.wantCode(t, pod1, networks("a@lo"), codeInvalidConfig, "loopback")
	n.wantCode(t, pod2, networks("a@lo"), codeInvalidConfig, "loopback")
	events := func() (all []string) {
		n.api.set(func() {
			for _, e := range n.api.objects["events"] {
				o := e["involvedObject"].(doc)
				all = append(all, fmt.Sprint(o["name"], " ", o["uid"], " ", e["reason"], " ", e["type"]))
				if !strings.Contains(e["message"].(string), o["name"].(string)) {
					t.Errorf("the message does not name the pod: %s", e["message"])
				}
			}
		})
		return all
	}
	eventually(t, func() error {
		want := []string{"till-0 uid-1 InvalidNetwork Warning", "till-0 uid-1 InvalidNetwork Warning", "till-1 uid-2 InvalidNetwork Warning"}
		if d := cmp.Diff(want, sorted(events())); d != "" {
			return errors.New(d)
		}
		return nil
	})
	n.stop()
	if asked := n.api.requests(); len(asked) != 3 {
		t.Errorf("%d requests for 3 faults: %v", len(asked), asked)
	}
}
