package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// binary is meta-cni as it ships.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "meta-cni-test-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "meta-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build meta-cni: %w: %s", err, out)
	}
	return m.Run(), nil
}

// A node has the stub, stand-in plugins, and a sandbox.
type node struct {
	t                           testing.TB
	dir, state, runDir          string // state has the records
	bin, journal, effects       string
	netns, id, args, socket     string
	annotations, extra, verbose string        // JSON; annotations is left out if empty
	runtime                     string        // further members of runtimeConfig, each with a comma before it
	def                         string        // the default network's configuration
	cpu                         time.Duration // of programs that a benchmark has run
}

func newNode(t testing.TB) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{
		t: t, dir: dir, state: dir, runDir: filepath.Join(dir, "run"), bin: filepath.Join(dir, "bin"), journal: filepath.Join(dir, "calls"), effects: filepath.Join(dir, "effects"),
		netns: delegatetest.Netns(t), id: fmt.Sprintf("c1-%d", os.Getpid()), socket: filepath.Join(dir, "agent.sock"),
		args:        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c1",
		annotations: `{"kubernetes.io/config.source":"api"}`,
	}
	for _, d := range []string{n.bin, n.effects} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	delegatetest.Install(t, n.bin, "rec-a", "rec-b", "rec-c")
	if err := os.Link(binary, filepath.Join(n.bin, "meta-cni")); err != nil {
		t.Fatal(err)
	}
	n.def = n.chain("pods", "1.1.0", `rec-a "capabilities":{"portMappings":true}`)
	return n
}

func (n *node) chain(name, version string, plugins ...string) string {
	var confs []string
	for _, p := range plugins {
		plugin, more, _ := strings.Cut(p, " ")
		if more != "" {
			more = "," + more
		}
		confs = append(confs, fmt.Sprintf(`{"type":%q,"journal":%q,"effects":%q%s}`, plugin, n.journal, n.effects, more))
	}
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(confs, ","))
}

func (n *node) conf() string {
	runtimeConfig := `"portMappings":[{"hostPort":8080}]` + n.runtime
	if n.annotations != "" {
		runtimeConfig += fmt.Sprintf(`,%q:%s`, annotationsCapability, n.annotations)
	}
	delegates := ""
	if n.def != "" {
		delegates = `"delegates":[` + n.def + `],`
	}
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"viaduct","type":"meta-cni",%s"runtimeConfig":{%s},
		"agentSocket":%q,"stateDir":%q,"runDir":%q,"deviceInfoDir":%q%s}`, delegates, runtimeConfig,
		n.socket, filepath.Join(n.state, "pods"), n.runDir, filepath.Join(n.dir, "devinfo"), n.extra)
}

func (n *node) command(verb string) *exec.Cmd {
	cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.bin, "meta-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+n.id, "CNI_NETNS="+n.netns, "CNI_IFNAME=eth0",
		"CNI_PATH="+n.bin, "CNI_ARGS="+n.args)
	cmd.Stdin = strings.NewReader(n.conf())
	return cmd
}

// run calls the stub. A failure is what it printed as a CNI error.
func (n *node) run(verb string) (string, *types.Error) {
	n.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := n.command(verb)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	n.verbose = stderr.String()
	if err == nil {
		return stdout.String(), nil
	}
	var said types.Error
	if bad := json.Unmarshal(stdout.Bytes(), &said); bad != nil {
		n.t.Fatalf("%s: %v, and printed no CNI error: %q %q", verb, err, stdout.String(), stderr.String())
	}
	return "", &said
}

func (n *node) ok(verb string) string {
	n.t.Helper()
	out, err := n.run(verb)
	if err != nil {
		n.t.Fatalf("%s: %v (code %d); %s", verb, err, err.Code, n.verbose)
	}
	return out
}

func (n *node) trace() []string {
	n.t.Helper()
	var out []string
	for _, c := range delegatetest.Calls(n.t, n.journal) {
		out = append(out, strings.TrimSpace(c.Verb+" "+c.Plugin+" "+c.IfName))
	}
	return out
}

// left lists what is not undone: the plugins' effects, records, and device files.
func (n *node) left() []string {
	n.t.Helper()
	var out []string
	for _, dir := range []string{n.effects, filepath.Join(n.dir, "pods"), filepath.Join(n.dir, "run"), filepath.Join(n.dir, "devinfo", "cni")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			n.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "sweep" { // when the last sweep was
				out = append(out, filepath.Base(dir)+"/"+e.Name())
			}
		}
	}
	return out
}

// An agent answers with what the test says, and keeps what it was asked.
type agent struct {
	mu      sync.Mutex
	plan    *network.Plan
	planner func(agentapi.Plan) (*network.Plan, error) // answers instead of plan
	refusal *agentapi.Error
	plans   []agentapi.Plan
	reports []agentapi.Report
	deaf    bool // to reports
}

func (a *agent) serve(n *node) {
	n.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.socket)
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var req agentapi.Request
			if err := agentapi.ReadFrame(conn, &req); err == nil && (req.Report == nil || !a.deaf) {
				_ = agentapi.WriteFrame(conn, a.answer(req)) // a killed stub does not wait for it
			}
			conn.Close()
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
}

func (a *agent) answer(req agentapi.Request) agentapi.Response {
	a.mu.Lock()
	defer a.mu.Unlock()
	resp := agentapi.Response{Version: agentapi.Version}
	switch {
	case req.Plan != nil:
		a.plans = append(a.plans, *req.Plan)
		resp.Plan, resp.Error = a.plan, a.refusal
		if a.planner != nil {
			var err error
			if resp.Plan, err = a.planner(*req.Plan); err != nil {
				resp.Error = &agentapi.Error{Code: 7, Message: err.Error()}
			}
		}
	case req.Report != nil:
		a.reports = append(a.reports, *req.Report)
	}
	return resp
}

func (n *node) twoNetworks() *network.Plan {
	return &network.Plan{Attachments: []network.Attachment{
		{Name: "shop/one", IfName: "net1", Config: json.RawMessage(n.chain("one", "1.0.0", "rec-b"))},
		{Name: "shop/two", IfName: "net2", Config: json.RawMessage(n.chain("two", "0.4.0", "rec-c"))},
	}}
}

func TestAPodWithoutExtraNetworksNeedsNoAgent(t *testing.T) {
	n := newNode(t)
	out := n.ok("ADD")
	var result struct {
		CNIVersion string `json:"cniVersion"`
		Interfaces []struct{ Name string }
		DNS        struct{ Domain string }
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatal(err)
	}
	if result.CNIVersion != "1.1.0" || len(result.Interfaces) != 1 || result.Interfaces[0].Name != "eth0" || result.DNS.Domain != "rec-a.test" {
		t.Errorf("result %s", out)
	}
	n.ok("CHECK")
	n.ok("STATUS")
	n.ok("DEL")
	n.ok("DEL")
	want := []string{"ADD rec-a eth0", "CHECK rec-a eth0", "STATUS rec-a", "DEL rec-a eth0", "DEL rec-a eth0"}
	if diff := cmp.Diff(want, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
	calls := delegatetest.Calls(t, n.journal)
	if got := string(calls[0].Stdin["runtimeConfig"]); got != `{"portMappings":[{"hostPort":8080}]}` {
		t.Errorf("the default network's plugin got runtimeConfig %s", got)
	}
}

func TestWhoIsAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		annotations, extra, args string
		asked                    bool
	}{
		"no networks":            {annotations: `{"a":"b"}`},
		"no annotations":         {annotations: `{}`},
		"an empty request":       {annotations: `{"k8s.v1.cni.cncf.io/networks":" "}`},
		"networks":               {annotations: `{"k8s.v1.cni.cncf.io/networks":"one"}`, asked: true},
		"another default":        {annotations: `{"v1.multus-cni.io/default-network":"x"}`, asked: true},
		"annotations not passed": {annotations: ``, asked: true},
		"annotations null":       {annotations: `null`, asked: true},
		"networks for all":       {annotations: `{}`, extra: `,"defaultNetworks":["x"]`, asked: true},
		"but not in here":        {annotations: `{}`, extra: `,"defaultNetworks":["x"],"systemNamespaces":["kube-system","shop"]`},
		"no networks for all":    {annotations: `{}`, extra: `,"defaultNetworks":[]`},
		"not a pod":              {annotations: ``, args: "IgnoreUnknown=1"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.annotations, n.extra = tc.annotations, tc.extra
			if tc.args != "" {
				n.args = tc.args
			}
			a := &agent{plan: &network.Plan{}}
			a.serve(n)
			n.ok("ADD")
			if got := len(a.plans) > 0; got != tc.asked {
				t.Errorf("want the agent asked: %v, got %v", tc.asked, got)
			}
			if tc.asked {
				if got := a.plans[0]; got.ContainerID != n.id || got.Pod != (network.Pod{Namespace: "shop", Name: "web", UID: "u-1"}) ||
					(got.Annotations == nil) != (tc.annotations == "" || tc.annotations == "null") || got.Annotations["a"] != "" {
					t.Errorf("the agent was asked for %+v", got)
				}
			}
			if len(a.reports) != 0 {
				t.Errorf("reported a pod without extra networks: %v", a.reports)
			}
		})
	}
}

func TestAPodWithExtraNetworks(t *testing.T) {
	n := newNode(t)
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
	a := &agent{plan: n.twoNetworks()}
	a.serve(n)
	out := n.ok("ADD")
	if !strings.Contains(out, "rec-a.test") || strings.Contains(out, "net1") {
		t.Errorf("the runtime got a result that is not the default network's: %s", out)
	}
	if len(a.reports) != 1 || a.reports[0].Pod.UID != "u-1" {
		t.Fatalf("reports when ADD returned: %+v", a.reports)
	}
	var status []struct{ Name, Interface string }
	if err := json.Unmarshal(a.reports[0].Status, &status); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]struct{ Name, Interface string }{{"pods", "eth0"}, {"shop/one", "net1"}, {"shop/two", "net2"}}, status); diff != "" {
		t.Errorf("network-status: -want +got:\n%s", diff)
	}
	n.ok("DEL")
	want := []string{
		"ADD rec-a eth0", "ADD rec-b net1", "ADD rec-c net2", "DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0",
	}
	if diff := cmp.Diff(want, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// What the kubelet and the runtime say of a pod is for its default network, whichever that is: a port of the node is mapped
// once, and a rate is not given to each network. The other networks get what the pod's annotation asks for, and no more. At
// each verb it is the same.
func TestStandardRuntimeConfigIsTheDefaultNetworks(t *testing.T) {
	const (
		all   = ` "capabilities":{"portMappings":true,"bandwidth":true,"dns":true,"ips":true,"io.kubernetes.cri.pod-annotations":false}`
		kubes = `{"bandwidth":{"ingressRate":1000,"ingressBurst":1000},"dns":{"servers":["10.96.0.10"]},"portMappings":[{"hostPort":8080}]}`
	)
	for name, tc := range map[string]struct {
		override bool
		want     map[string]string
	}{
		"the node's": {false, map[string]string{
			"rec-a": kubes, "rec-b": `{"ips":["192.0.2.1"],"portMappings":[{"hostPort":1}]}`, "rec-c": "",
		}},
		"the pod's own": {true, map[string]string{
			"rec-d": `{"bandwidth":{"egressRate":7},"dns":{"servers":["10.96.0.10"]},"portMappings":[{"hostPort":8080}]}`,
			"rec-b": `{"ips":["192.0.2.1"],"portMappings":[{"hostPort":1}]}`, "rec-c": "",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			delegatetest.Install(t, n.bin, "rec-d")
			n.def = n.chain("pods", "1.1.0", "rec-a"+all)
			n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
			n.runtime = `,"bandwidth":{"ingressRate":1000,"ingressBurst":1000},"dns":{"servers":["10.96.0.10"]},"ipRanges":[[{"subnet":"10.0.0.0/24"}]]`
			plan := &network.Plan{Attachments: []network.Attachment{
				{Name: "shop/one", IfName: "net1", Config: json.RawMessage(n.chain("one", "1.1.0", "rec-b"+all)), Capabilities: map[string]json.RawMessage{
					"ips": json.RawMessage(`["192.0.2.1"]`), "portMappings": json.RawMessage(`[{"hostPort":1}]`),
				}},
				{Name: "shop/two", IfName: "net2", Config: json.RawMessage(n.chain("two", "1.1.0", "rec-c"+all))},
			}}
			if tc.override { // what its own annotation asks for comes before what the runtime says
				plan.Default = &network.Attachment{
					Name: "shop/special", Config: json.RawMessage(n.chain("special", "1.1.0", "rec-d"+all)),
					Capabilities: map[string]json.RawMessage{"bandwidth": json.RawMessage(`{"egressRate":7}`)},
				}
			}
			(&agent{plan: plan}).serve(n)
			n.ok("ADD")
			n.ok("CHECK")
			n.runtime = "" // DEL goes by what ADD was given
			n.ok("DEL")
			got := map[string]string{}
			verbs := map[string]int{}
			for _, c := range delegatetest.Calls(t, n.journal) {
				config := string(c.Stdin["runtimeConfig"])
				if before, seen := got[c.Plugin]; seen && before != config {
					t.Errorf("%s of %s: runtimeConfig %s, before %s", c.Verb, c.Plugin, config, before)
				}
				got[c.Plugin] = config
				verbs[c.Verb]++
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(map[string]int{"ADD": 3, "CHECK": 3, "DEL": 3}, verbs); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestAnotherDefaultNetwork(t *testing.T) {
	n := newNode(t)
	n.annotations = `{"v1.multus-cni.io/default-network":"special"}`
	special := network.Attachment{Name: "shop/special", Config: json.RawMessage(n.chain("special", "1.0.0", `rec-b "capabilities":{"portMappings":true}`))}
	a := &agent{plan: &network.Plan{Default: &special}}
	a.serve(n)
	n.ok("ADD")
	n.ok("DEL")
	if diff := cmp.Diff([]string{"ADD rec-b eth0", "DEL rec-b eth0"}, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if got := string(delegatetest.Calls(t, n.journal)[0].Stdin["runtimeConfig"]); !strings.Contains(got, "8080") {
		t.Errorf("it did not get what the runtime passed: %s", got)
	}
}

func TestErrors(t *testing.T) {
	refusal := &agentapi.Error{Code: 7, Message: "network one: there is no such definition", Details: "kubectl get nad -n shop"}
	for name, tc := range map[string]struct {
		change  func(*node)
		agent   *agent
		code    uint
		mention string
	}{
		"a prevResult":        {func(n *node) { n.extra = `,"prevResult":{"cniVersion":"1.0.0"}` }, nil, 7, "first plugin"},
		"no default network":  {func(n *node) { n.def = "" }, nil, 7, "delegates"},
		"two delegates":       {func(n *node) { n.def += "," + n.chain("y", "1.0.0", "rec-b") }, nil, 7, "--config"},
		"annotations garbage": {func(n *node) { n.annotations = `"x"` }, nil, 6, "pod-annotations"},
		"CNI_ARGS garbage":    {func(n *node) { n.args = "K8S_POD_NAME" }, nil, 4, "KEY=VALUE"},
		"itself as default":   {func(n *node) { n.def = n.chain("x", "1.0.0", "meta-cni") }, nil, 7, "itself"},
		"the agent refuses":   {func(n *node) { n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one"}` }, &agent{refusal: refusal}, 7, "kubectl get nad"},
		"the agent is away":   {func(n *node) { n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one"}` }, nil, 11, "meta-agent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			tc.change(n)
			if tc.agent != nil {
				tc.agent.serve(n)
			}
			_, err := n.run("ADD")
			if err == nil {
				t.Fatal("ADD succeeded")
			}
			if err.Code != tc.code || !strings.Contains(err.Error(), tc.mention) {
				t.Errorf("want code %d and %q, got %d: %s", tc.code, tc.mention, err.Code, err)
			}
			if left := n.left(); n.trace() != nil && name != "itself as default" || left != nil && name != "itself as default" {
				t.Errorf("plugins ran: %v; left behind: %v", n.trace(), left)
			}
		})
	}
}

// A network's author who has a plugin that passes its "delegate" on, as flannel does, cannot have meta-cni run programs from a
// folder of theirs, or write where they say.
func TestNestedIsRefused(t *testing.T) {
	n := newNode(t)
	theirs := t.TempDir()
	if err := os.Rename(filepath.Join(n.bin, "rec-b"), filepath.Join(theirs, "rec-b")); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(n.dir, "inner")
	passesOn := fmt.Sprintf("#!/bin/sh\ncat > /dev/null\nexec %s/meta-cni < %s\n", n.bin, inner)
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"inner","type":"meta-cni","delegates":[%s],"binDir":%q,"stateDir":%[2]q,"runDir":%[2]q,
		"runtimeConfig":{%[3]q:{}}}`, n.chain("pods", "1.1.0", "rec-b"), theirs, annotationsCapability)
	err := errors.Join(os.WriteFile(filepath.Join(n.bin, "passes-on"), []byte(passesOn), 0o700), os.WriteFile(inner, []byte(conf), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	n.def = n.chain("pods", "1.1.0", "passes-on")
	if _, err := n.run("ADD"); err == nil || !strings.Contains(err.Error(), "cannot be called by a plugin of one of its own networks") {
		t.Errorf("ADD: %v", err)
	}
	n.ok("DEL")
	entries, err := os.ReadDir(theirs)
	if err != nil || len(entries) != 1 || n.trace() != nil || n.left() != nil {
		t.Errorf("its folder has %v, %v; calls: %v; left: %v", entries, err, n.trace(), n.left())
	}
}

func TestMultusBinDir(t *testing.T) {
	n := newNode(t)
	other := t.TempDir()
	if err := os.Rename(filepath.Join(n.bin, "rec-a"), filepath.Join(other, "rec-a")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run("ADD"); err == nil {
		t.Fatal("a plugin that is not there ran")
	}
	n.extra = fmt.Sprintf(`,"binDir":%q`, other)
	n.ok("ADD")
	n.ok("DEL")
}

// The journal alone is enough for DEL: a configuration that has lost its default network does not hold a pod up.
func TestDelGoesByTheJournal(t *testing.T) {
	n := newNode(t)
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
	a := &agent{plan: n.twoNetworks()}
	a.serve(n)
	n.ok("ADD")
	n.def, n.annotations, n.socket, n.netns = "", "", "/nonexistent", ""
	n.ok("DEL")
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestVersionAndAbout(t *testing.T) {
	n := newNode(t)
	if out := n.ok("VERSION"); !strings.Contains(out, `"1.1.0"`) {
		t.Errorf("VERSION prints %s", out)
	}
}

func TestGC(t *testing.T) {
	n := newNode(t)
	n.ok("ADD")
	n.extra = fmt.Sprintf(`,"cni.dev/valid-attachments":[{"containerID":%q,"ifname":"eth0"}]`, n.id)
	n.ok("GC")
	n.extra = `` // a runtime that passes no list does not say that there are none
	n.ok("GC")
	if diff := cmp.Diff([]string{"ADD rec-a eth0", "GC rec-a"}, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	n.extra = `,"cni.dev/valid-attachments":[]`
	n.ok("GC")
	if diff := cmp.Diff([]string{"ADD rec-a eth0", "GC rec-a", "DEL rec-a eth0", "GC rec-a"}, n.trace()); diff != "" {
		t.Errorf("calls: -want +got:\n%s", diff)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}
