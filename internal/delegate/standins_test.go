package delegate

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// Plugins that are odd, but answer: they work, alone and in the middle of a chain.
func TestOddPlugins(t *testing.T) {
	for name, tc := range map[string]struct {
		version string
		plugin  string // of the first in the chain
		next    string // what the second must find in its prevResult
		status  string // what network-status must say of it
	}{
		"a result of a newer version than asked": {
			"0.3.1", `"result":{"cniVersion":"1.1.0","interfaces":[{"name":"net1","mtu":1400,"sandbox":"/n"}],"ips":[{"address":"192.0.2.9/24","interface":0}]}`,
			`"cniVersion":"0.3.1"`, `"ips":["192.0.2.9"]`,
		},
		"a result of an older version than asked": {
			"1.1.0", `"result":{"cniVersion":"0.2.0","ip4":{"ip":"192.0.2.9/24"}}`, `"cniVersion":"1.1.0"`, `"ips":["192.0.2.9"]`,
		},
		"a result of no version":           {"0.4.0", `"result":{"ips":[{"version":"4","address":"192.0.2.9/24"}]}`, `"cniVersion":"0.4.0"`, `"ips":["192.0.2.9"]`},
		"no interfaces, but an address":    {"1.0.0", `"result":{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.9/24"}]}`, `192.0.2.9`, `"interface":"net1","ips":["192.0.2.9"]`},
		"neither interfaces nor addresses": {"1.0.0", `"result":{"cniVersion":"1.0.0"}`, `"cniVersion":"1.0.0"`, `"name":"shop/one","interface":"net1"`},
		"an interface without a netdev": { // a VF for DPDK: a name, and nothing of the name in the sandbox
			"1.1.0", `"result":{"cniVersion":"1.1.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:09","sandbox":"/n","pciID":"0000:02:10.0"}]}`,
			`0000:02:10.0`, `"interface":"net1","mac":"02:00:00:00:00:09"`,
		},
		"keys that nobody knows":  {"1.0.0", `"result":{"cniVersion":"1.0.0","interfaces":[],"vendor":{"x":[1]}}`, `"cniVersion":"1.0.0"`, `"interface":"net1"`},
		"slow":                    {"1.0.0", `"do":{"ADD":["slow"],"DEL":["slow"]}`, `rec-b.test`, `"interface":"net1"`},
		"others work for it":      {"1.0.0", `"do":{"ADD":["ipam"],"DEL":["ipam"]}`, `rec-b.test`, `"interface":"net1"`},
		"its state by id alone":   {"1.0.0", `"do":{"ADD":["strict"],"DEL":["strict"]}`, `rec-b.test`, `"interface":"net1"`},
		"words on standard error": {"1.0.0", `"stderr":"warning: deprecated"`, `rec-b.test`, `"interface":"net1"`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			rec, err := n.Add(t.Context(), n.sandbox("c1"), planned(n.attachments(
				network.Attachment{Name: "shop/one", Config: n.chain("one", tc.version, "rec-b "+tc.plugin, "rec-c")})))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(delegatetest.Calls(t, n.journal)[2].Stdin["prevResult"]); !strings.Contains(got, tc.next) {
				t.Errorf("the next plugin got %s, want %s in it", got, tc.next)
			}
			status, err := rec.NetworkStatus()
			var compact bytes.Buffer
			if err = errors.Join(err, json.Compact(&compact, status)); err != nil || !strings.Contains(compact.String(), tc.status) {
				t.Errorf("network-status is %s, want %s in it; %v", compact.String(), tc.status, err)
			}
			if err := n.Check(t.Context(), n.sandbox("c1")); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil {
				t.Fatal(err)
			}
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A plugin that knows containers, not interfaces: an old sandbox's DEL, which comes after the new one's ADD and again, is
// about the old one alone.
func TestDelOfAnOldSandbox(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"ADD":["strict"],"DEL":["strict"]}`)})
	for _, id := range []string{"old", "new"} {
		if _, err := n.Add(t.Context(), n.sandbox(id), planned(plan)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := n.Del(t.Context(), n.sandbox("old"), plan[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(n.effects, "new.rec-b")); err != nil {
		t.Errorf("the new sandbox has lost its state: %v", err)
	}
	if err := n.Del(t.Context(), n.sandbox("new"), plan[0]); err != nil {
		t.Fatal(err)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if diff := cmp.Diff("DEL rec-a eth0", n.trace()[len(n.trace())-1]); diff != "" {
		t.Error(diff)
	}
}

// A network whose plugin refuses every DEL can be given up by hand, as docs/troubleshooting.md says: the others get theirs.
func TestDelOfANetworkGivenUp(t *testing.T) {
	n := newNode(t)
	plan := n.attachments(
		network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", `rec-b "do":{"DEL":["fail"]}`)}, network.Attachment{Name: "shop/two", Config: n.chain("two", "1.0.0", "rec-c")},
	)
	if _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err == nil {
		t.Fatal("DEL succeeded")
	}
	path := filepath.Join(n.Records.Dir, "c1.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(data), `"name":"shop/one"`)
	edited := before + `"name":"shop/one"` + strings.Replace(after, `"phase":"deleting"`, `"phase":"gone"`, 1)
	if edited == string(data) {
		t.Fatalf("nothing of the kind is in it: %s", data)
	}
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := len(n.trace())
	if err := n.Del(t.Context(), n.sandbox("c1"), network.Attachment{}); err != nil || len(n.trace()) != calls {
		t.Errorf("DEL again: %v, calls %v", err, n.trace()[calls:])
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A plugin that never reads a configuration larger than a pipe holds is one that hangs, or one that has no use for it.
func TestPluginThatDoesNotRead(t *testing.T) {
	const answer = `echo '{"cniVersion":"1.0.0"}'` + "\n"
	// A child that holds what the plugin does not read, out of reach of whoever ends the plugin.
	const heir = "exec 3<&0; setsid sleep 60 <&3 >/dev/null 2>&1 & echo $! >heir\n"
	for what, tc := range map[string]struct {
		script string
		fails  string
	}{
		"hangs":                     {"exec sleep 60\n", "did not end in time"},
		"answers":                   {answer, ""},
		"hangs, and has a child":    {heir + "exec sleep 60\n", "did not end in time"},
		"answers, and has a child":  {heir + answer, ""},
		"closes it, and answers":    {"exec <&-; " + answer, ""},
		"closes it, and then hangs": {"exec <&-; exec sleep 60\n", "did not end in time"},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t)
			n.Timeout, n.Path = time.Second, t.TempDir()
			t.Chdir(n.Path)
			if err := os.WriteFile("deaf", []byte("#!/bin/sh\n"+tc.script), 0o700); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(tc.script, "heir") {
				t.Cleanup(func() { endChild(t, "heir") })
			}
			_, err := n.exec(t.Context(), call{
				verb: "ADD", network: "pods", plugin: PluginConf{Type: "deaf"}, containerID: "c1",
				stdin: bytes.Repeat([]byte(" "), 1<<20), env: map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1"},
			})
			if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) {
				t.Errorf("got %v, want %q", err, tc.fails)
			}
		})
	}
}
