package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The test binary is the plugin when it is called as one.
func TestMain(m *testing.M) {
	if site := os.Getenv("TEST_SITE"); site != "" {
		os.Exit(run(context.Background(), site))
	}
	os.Exit(m.Run())
}

// A reply is what came back over stdout, stderr and the exit status.
type reply struct {
	exit           int
	stdout, stderr string
	err            struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details"`
	}
}

// A node is where the plugin keeps its state and its log.
type node struct{ site, state, logs string }

func newNode(t *testing.T) node {
	t.Helper()
	dir := t.TempDir()
	n := node{site: filepath.Join(dir, "sriov.json"), state: filepath.Join(dir, "state"), logs: filepath.Join(dir, "logs")}
	if err := os.WriteFile(n.site, fmt.Appendf(nil, `{"stateDir":%q,"logDir":%q}`, n.state, n.logs), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

// call runs the plugin. An environment variable that is set to nothing is not set.
func (n node) call(t *testing.T, verb, stdin string, env map[string]string) reply {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"TEST_SITE": n.site, "CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": "net1", "CNI_PATH": "/nowhere",
	}
	maps.Copy(all, env)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	for k, v := range all {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	err = cmd.Run()
	r := reply{stdout: stdout.String(), stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.exit = exit.ExitCode()
		if err := json.Unmarshal(stdout.Bytes(), &r.err); err != nil {
			t.Fatalf("%s: the error on stdout %q: %v", verb, r.stdout, err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// Each verb in each version of the protocol: what a version does not know is refused with code 1, the rest is done, and an
// error says the version that it was asked in.
func TestVersions(t *testing.T) {
	n := newNode(t)
	// From when on there is the verb, and what a call without a VF is answered.
	verbs := map[string]struct {
		since string
		code  uint
	}{
		"ADD": {"0.1.0", 7}, "DEL": {"0.1.0", 0}, "CHECK": {"0.4.0", 7}, "GC": {"1.1.0", 0}, "STATUS": {"1.1.0", 0},
	}
	for verb, want := range verbs {
		for _, v := range versions {
			t.Run(verb+" "+v, func(t *testing.T) {
				conf := fmt.Sprintf(`{"cniVersion":%q,"name":"n","type":"sriov","cni.dev/valid-attachments":[]}`, v)
				r := n.call(t, verb, conf, nil)
				code := want.code
				if v < want.since {
					code = 1
				}
				if r.err.Code != code || (r.exit == 0) != (code == 0) {
					t.Fatalf("code %d, exit %d, want code %d: %s%s", r.err.Code, r.exit, code, r.stdout, r.stderr)
				}
				if code != 0 && r.err.CNIVersion != v {
					t.Errorf("the error is of version %q", r.err.CNIVersion)
				}
			})
		}
	}
	r := n.call(t, "VERSION", "", nil)
	var told struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &told); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(versions, told.SupportedVersions); d != "" {
		t.Error(d)
	}
}

func TestErrors(t *testing.T) {
	const good = `{"cniVersion":"1.1.0","name":"n","type":"sriov"}`
	vf := func(rest string) string {
		return `{"cniVersion":"1.1.0","name":"n","type":"sriov","deviceID":"ffff:ff:1f.7"` + rest + `}`
	}
	tests := map[string]struct {
		verb, stdin string
		env         map[string]string
		code        uint
		words       []string
	}{
		"a version of tomorrow":   {"ADD", `{"cniVersion":"2.0.0","name":"n","type":"sriov"}`, nil, 1, []string{"2.0.0"}},
		"no version is 0.1.0":     {"CHECK", `{"name":"n","type":"sriov"}`, nil, 1, []string{"CHECK"}},
		"a verb of tomorrow":      {"REPAIR", good, nil, 4, []string{"REPAIR"}},
		"no container":            {"ADD", good, map[string]string{"CNI_CONTAINERID": ""}, 4, []string{"CNI_CONTAINERID"}},
		"a container with a path": {"ADD", good, map[string]string{"CNI_CONTAINERID": "../c"}, 4, []string{"container"}},
		"a bad interface name":    {"ADD", good, map[string]string{"CNI_IFNAME": "a/b"}, 4, []string{"interface name"}},
		"bad CNI_ARGS":            {"ADD", good, map[string]string{"CNI_ARGS": "MAC"}, 4, []string{"CNI_ARGS"}},
		"no JSON":                 {"ADD", `{"cniVersion`, nil, 6, nil},
		"no name":                 {"ADD", `{"cniVersion":"1.1.0","type":"sriov"}`, nil, 7, []string{"name"}},
		"bad keys, all told":      {"ADD", vf(`,"vlan":5000,"trust":"maybe"`), nil, 7, []string{"vlan: 5000", `trust: "maybe"`}},
		"no device":               {"ADD", good, nil, 7, []string{"deviceID"}},
		"no such device":          {"ADD", vf(""), nil, 7, []string{"ffff:ff:1f.7", "no such PCI device"}},
		"CHECK of no such device": {"CHECK", vf(""), nil, 7, []string{"ffff:ff:1f.7"}},
		"GC without a list":       {"GC", good, nil, 7, []string{"cni.dev/valid-attachments"}},
		"STATUS without IPAM":     {"STATUS", `{"cniVersion":"1.1.0","name":"n","type":"sriov","ipam":{"type":"no-such"}}`, nil, 50, []string{"no-such"}},
	}
	n := newNode(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := n.call(t, tt.verb, tt.stdin, tt.env)
			if r.exit == 0 || r.err.Code != tt.code {
				t.Fatalf("exit %d, code %d, want code %d: %s", r.exit, r.err.Code, tt.code, r.stdout)
			}
			for _, w := range tt.words {
				if !strings.Contains(r.err.Msg+r.err.Details, w) {
					t.Errorf("%q does not say %q", r.err.Msg+r.err.Details, w)
				}
			}
		})
	}
	// A VF that is no more, or never was, keeps nobody's pod.
	if r := n.call(t, "DEL", vf(""), nil); r.exit != 0 {
		t.Errorf("DEL of no such device: %s", r.stdout)
	}
}

// The node's owner says where state is, and only root: a network definition has no say.
func TestSite(t *testing.T) {
	n := newNode(t)
	const conf = `{"cniVersion":"1.1.0","name":"n","type":"sriov","stateDir":"/nowhere","cniDir":"/nowhere"}`
	if r := n.call(t, "STATUS", conf, nil); r.exit != 0 {
		t.Fatalf("STATUS: %s", r.stdout)
	}
	if info, err := os.Stat(n.state); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state folder: %v, %v; want it, with mode 0700", info, err)
	}
	if err := os.Chmod(n.site, 0o666); err != nil {
		t.Fatal(err)
	}
	if r := n.call(t, "STATUS", conf, nil); r.err.Code != 5 || !strings.Contains(r.err.Msg, "only root") {
		t.Errorf("a site file that anyone can write: %q", r.stdout)
	}
	if err := errors.Join(os.Chmod(n.site, 0o600), os.Chown(n.site, 12345, 0)); err != nil {
		t.Fatal(err)
	}
	if r := n.call(t, "STATUS", conf, nil); r.err.Code != 5 || !strings.Contains(r.err.Msg, "owner 12345") {
		t.Errorf("a site file of somebody else: %q", r.stdout)
	}
}

// A log that lets one follow one attachment: each line says verb, container, interface, network, VF and pod.
func TestLog(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.logs, "sriov.log")
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"fast","type":"sriov","deviceID":"ffff:ff:1f.7","logLevel":"debug","logFile":%q}`, file)
	args := map[string]string{"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=till-1"}
	n.call(t, "ADD", conf, args)
	n.call(t, "DEL", conf, args)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	verbs := map[string]bool{}
	for _, line := range lines {
		for _, w := range []string{"time=", "level=", "container=c1", "ifname=net1", "network=fast", "vf=ffff:ff:1f.7", "pod=shop/till-1"} {
			if !strings.Contains(line, w) {
				t.Errorf("%q is missing in %q", w, line)
			}
		}
		_, rest, _ := strings.Cut(line, "verb=")
		verbs[strings.Fields(rest + " ?")[0]] = true
	}
	if d := cmp.Diff(map[string]bool{"ADD": true, "DEL": true}, verbs); d != "" {
		t.Errorf("verbs: %s\n%s", d, b)
	}
}
