//go:build lab

package labtest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// plugins are the reference CNI plugins. make builds them outside of the lab, where a compiler is slow.
func plugins(t *testing.T) string {
	t.Helper()
	if dir, err := filepath.Abs("../../../bin/cni-plugins"); err == nil {
		if _, err := os.Stat(filepath.Join(dir, "ipvlan")); err == nil {
			return dir
		}
	}
	dir := t.TempDir()
	sh(t, "cd ../testdata/plugins && CGO_ENABLED=0 go build -o "+dir+"/ tool")
	return dir
}

func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// enter moves this test, and what it starts, into the network namespace. The thread ends with the test's goroutine.
func enter(t *testing.T, netns string) {
	t.Helper()
	runtime.LockOSThread()
	f, err := os.Open(netns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func TestRealPlugins(t *testing.T) {
	bin := plugins(t)
	for name, tc := range map[string]struct{ version, plugins, link, ip string }{
		"ipvlan": {
			"1.0.0", `{"type":"ipvlan","master":"uplink0","mode":"l2","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.60.0.0/24"}}`,
			"ipvlan", "10.60.0.2",
		},
		"vlan, tuning": {
			"0.4.0", `{"type":"vlan","master":"uplink0","vlanId":7,"ipam":{"type":"host-local","dataDir":"%s","subnet":"10.61.0.0/24"}},{"type":"tuning","mtu":1400}`,
			"vlan protocol 802.1Q id 7", "10.61.0.2",
		},
		"macvlan, vrf": {
			"1.0.0", `{"type":"macvlan","master":"uplink0","ipam":{"type":"host-local","dataDir":"%s","subnet":"10.62.0.0/24"}},{"type":"vrf","vrfname":"blue"}`,
			"vrf_slave", "10.62.0.2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leases := filepath.Join(dir, "leases")
			enter(t, delegatetest.Netns(t)) // it plays the node
			sh(t, "ip link set lo up; ip link add uplink0 type veth peer name uplink1; ip link set uplink0 up; ip link set uplink1 up")
			before := sh(t, "ip -br link show")
			r := &delegate.Runner{
				Records: delegate.Records(filepath.Join(dir, "pods")), Running: journal.Store{Dir: filepath.Join(dir, "run"), Version: 1},
				Devices: devinfo.Dir{Root: filepath.Join(dir, "devinfo")}, Path: bin, Log: slog.New(slog.DiscardHandler),
			}
			sb := delegate.Sandbox{ContainerID: "c1", Netns: delegatetest.Netns(t), IfName: "eth0"}
			plan := []network.Attachment{
				{Name: "pods", IsDefault: true, Config: json.RawMessage(fmt.Sprintf(
					`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.40.0.0/24"}}]}`, leases))},
				{Name: "shop/one", IfName: "net1", Config: json.RawMessage(fmt.Sprintf(
					`{"cniVersion":%q,"name":"one","plugins":[`+tc.plugins+`]}`, tc.version, leases))},
			}
			if _, err := r.Add(t.Context(), sb, func(context.Context) ([]network.Attachment, error) { return plan, nil }); err != nil {
				t.Fatal(err)
			}
			in := "ip netns exec " + filepath.Base(sb.Netns) + " "
			if got := sh(t, in+"ip -d addr show net1"); !strings.Contains(got, tc.link) || !strings.Contains(got, tc.ip) {
				t.Errorf("want %s with %s, the pod has %s", tc.link, tc.ip, got)
			}
			// Macvlan's CHECK misses the routes that vrf has moved to another table.
			if err := r.Check(t.Context(), sb); err != nil && name != "macvlan, vrf" {
				t.Errorf("CHECK: %v", err)
			}
			if err := r.Del(t.Context(), sb, plan[0]); err != nil {
				t.Fatal(err)
			}
			if after := sh(t, "ip -br link show"); after != before {
				t.Errorf("links of the node: before %s, after %s", before, after)
			}
			if left, _ := filepath.Glob(filepath.Join(leases, "*", "10.*")); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
