//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// TestPods runs what users run, side by side, as a pod takes half a minute here: three pods with a VF each, one of them with
// every key that the standard has; and before them one that asks for nothing.
func TestPods(t *testing.T) {
	leaveNothing(t)
	const mac = "02:00:00:00:64:01"
	a := pod{name: "a", networks: `[{"name": "vlan100", "mac": "` + mac + `"}]`, vfs: 1}
	b := pod{name: "b", networks: "vlan100", vfs: 1}
	keys := pod{name: "keys", networks: allKeys, vfs: 1}
	plain := pod{name: "plain"}
	before := plans(t)
	plain.create(t)
	plain.running(t)
	// The runtime passed its annotations on, and they say that it needs nothing.
	if diff := cmp.Diff(before, plans(t)); diff != "" {
		t.Errorf("for a pod without networks of its own the agent was asked (-before +now):\n%s", diff)
	}
	pods := []pod{a, b, keys}
	for _, p := range pods {
		p.create(t)
	}
	for _, p := range pods {
		p.running(t)
	}
	if cmp.Equal(before, plans(t)) {
		t.Error("nor was it for the others: this shows nothing")
	}
	t.Run("VF", func(t *testing.T) { a.hasVF(t, mac) })
	t.Run("other VFs", func(t *testing.T) {
		want, now := maps.Clone(baseline.VFs), mustLook(t).VFs
		for _, p := range pods {
			for _, address := range p.devices(t) {
				delete(now, address)
				delete(want, address)
			}
		}
		if diff := cmp.Diff(want, now); diff != "" {
			t.Errorf("they changed (-before +now):\n%s", diff)
		}
	})
	t.Run("keys", keys.hasAllKeys)
	t.Run("no networks", func(t *testing.T) {
		if status := plain.status(t); len(status) != 1 || !status[0].Default || status[0].Interface != "eth0" {
			t.Errorf("want the default network on eth0 alone: %+v", status)
		}
	})
	t.Run("frames", func(t *testing.T) {
		toA, toB, toKeys := a.status(t)[1].IPs[0], b.status(t)[1].IPs[0], keys.status(t)[1].IPs[0]
		// Carrier comes seconds after a VF is up, and first frames are late.
		eventually(t, "a to reach b", func(ctx context.Context) error { return a.pings(ctx, "net1", toB) })
		eventually(t, "b to reach a", func(ctx context.Context) error { return b.pings(ctx, "net1", toA) })
		plain.joinVLAN(t, 200)
		eventually(t, "keys to be reached on its VLAN", func(ctx context.Context) error { return plain.pings(ctx, "vlan200", toKeys) })
		// All are in one subnet and on one wire, so only the VLAN keeps them apart.
		if err := a.pings(t.Context(), "net1", toKeys); err == nil {
			t.Error("a pod on VLAN 100 reaches one on VLAN 200")
		}
		if err := plain.pings(t.Context(), "vlan200", toA); err == nil {
			t.Error("a pod on VLAN 200 reaches one on VLAN 100")
		}
	})
	t.Run("more VFs than are free", func(t *testing.T) {
		waiting := pod{name: "waiting", vfs: len(baseline.VFs)}
		waiting.create(t)
		waiting.event(t, "FailedScheduling", "Insufficient "+resource)
		waiting.unschedulable(t, "Insufficient "+resource)
		for _, p := range pods {
			p.remove(t.Context(), t)
		}
		waiting.running(t)
		if got := waiting.devices(t); len(got) != len(baseline.VFs) {
			t.Errorf("it got VFs %v, want %d", got, len(baseline.VFs))
		}
	})
}

// joinVLAN gives the pod an interface vlanN on a PF, without any VF, in the subnet of all networks here. It goes with the pod.
func (p pod) joinVLAN(t *testing.T, id int) {
	t.Helper()
	pid, _, err := p.process()
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := physicalFunction(slices.Min(slices.Collect(maps.Keys(baseline.VFs))))
	if err != nil {
		t.Fatal(err)
	}
	pf, err := netlink.LinkByName(first)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(filepath.Join("/proc", pid, "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	name := fmt.Sprintf("vlan%d", id)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = name, pf.Attrs().Index, netlink.NsFd(ns.Fd())
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.exec(t.Context(), "sh", "-c", "ip addr add 10.56.100.250/24 dev "+name+" && ip link set "+name+" up"); err != nil {
		t.Fatal(err)
	}
}

// hasVF compares what the kernel says of the pod's one VF, on the PF and in the pod, and network-status with network
// vlan100 and this MAC.
func (p pod) hasVF(t *testing.T, mac string) {
	t.Helper()
	address := p.devices(t)[0]
	want := baseline.VFs[address]
	// All unlike what igb gives a VF by itself.
	want.Entry.MAC, want.Entry.VLAN, want.Entry.QoS, want.Entry.SpoofCheck, want.Entry.Trust = mac, 100, 3, false, true
	want.Link = nil // it is in the pod
	if diff := cmp.Diff(want, mustLook(t).VFs[address]); diff != "" {
		t.Errorf("VF %s (-want +got):\n%s", address, diff)
	}
	out, err := p.exec(t.Context(), "ip", "addr", "show", "net1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{mac, "inet 10.56.100.", ",UP", "mtu 1500"} {
		if !strings.Contains(out, want) {
			t.Errorf("net1 lacks %q:\n%s", want, out)
		}
	}
	status := p.status(t)
	if len(status) != 2 || !status[0].Default || status[0].Interface != "eth0" {
		t.Fatalf("want the default network on eth0, then one more: %+v", status)
	}
	got := status[1]
	if got.Name != "e2e/vlan100" || got.Interface != "net1" || got.MAC != mac || len(got.IPs) != 1 {
		t.Errorf("want e2e/vlan100 on net1 with MAC %s and one address: %+v", mac, got)
	}
	if got.DeviceInfo == nil || got.DeviceInfo.PCI.Address != address {
		t.Errorf("want device-info of VF %s: %+v", address, got.DeviceInfo)
	}
}

// allKeys is all that a VF's network can be asked for. Its definition declares no capability.
const (
	keysMAC, keysIP, keysGateway = "02:00:00:00:c8:01", "10.56.100.222", "10.56.100.254"

	allKeys = `[{"name": "vlan200", "interface": "data0", "mac": "` + keysMAC + `", "ips": ["` + keysIP + `"], "default-route": ["` + keysGateway + `"]}]`
)

func (p pod) hasAllKeys(t *testing.T) {
	out, err := p.exec(t.Context(), "sh", "-c", "ip addr show data0; ip route")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{keysMAC, "inet " + keysIP + "/24", "default via " + keysGateway + " dev data0"} {
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
	if d := cmp.Diff(podNetwork{Name: "e2e/vlan200", Interface: "data0", MAC: keysMAC, IPs: []string{keysIP}}, got); d != "" {
		t.Errorf("network-status: %s", d)
	}
}
