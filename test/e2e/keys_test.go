//go:build cluster

package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStandardKeysOnAVF asks for all that a VF's network can be asked for. Its definition declares no capability.
func TestStandardKeysOnAVF(t *testing.T) {
	leaveNothing(t)
	const mac, ip, gateway = "02:00:00:00:c8:01", "10.56.100.222", "10.56.100.254"
	p := pod{
		name: "keys", vfs: 1,
		networks: `[{"name": "vlan200", "interface": "data0", "mac": "` + mac + `", "ips": ["` + ip + `"], "default-route": ["` + gateway + `"]}]`,
	}
	p.create(t)
	p.running(t)
	out, err := p.exec(t.Context(), "sh", "-c", "ip addr show data0; ip route")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{mac, "inet " + ip + "/24", "default via " + gateway + " dev data0"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pod lacks %q:\n%s", want, out)
		}
	}
	if n := strings.Count(out, "default via"); n != 1 {
		t.Errorf("%d default routes:\n%s", n, out)
	}
	got := p.status(t)[1]
	if got.DeviceInfo == nil || got.DeviceInfo.PCI.Address != p.devices(t)[0] {
		t.Errorf("device-info in network-status: %+v", got.DeviceInfo)
	}
	got.DeviceInfo = nil
	if d := cmp.Diff(podNetwork{Name: "e2e/vlan200", Interface: "data0", MAC: mac, IPs: []string{ip}}, got); d != "" {
		t.Errorf("network-status: %s", d)
	}
}
