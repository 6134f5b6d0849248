//go:build cluster

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPodGetsVF follows one VF into a pod and back.
func TestPodGetsVF(t *testing.T) {
	leaveNothing(t)
	const mac = "02:00:00:00:64:01"
	p := pod{name: "one", networks: `[{"name": "vlan100", "mac": "` + mac + `"}]`, vfs: 1}
	p.create(t)
	p.running(t)
	address := p.devices(t)[0]

	t.Run("PF entry", func(t *testing.T) {
		now := mustLook(t).VFs[address]
		want := baseline.VFs[address]
		// All unlike what igb gives a VF by itself.
		want.Entry.MAC, want.Entry.VLAN, want.Entry.QoS, want.Entry.SpoofCheck, want.Entry.Trust = mac, 100, 3, false, true
		want.Link = nil // it is in the pod
		if diff := cmp.Diff(want, now); diff != "" {
			t.Errorf("VF %s (-want +got):\n%s", address, diff)
		}
	})
	t.Run("other VFs", func(t *testing.T) {
		want, now := baseline.VFs, mustLook(t).VFs
		now[address] = want[address]
		if diff := cmp.Diff(want, now); diff != "" {
			t.Errorf("they changed (-before +now):\n%s", diff)
		}
	})
	t.Run("pod", func(t *testing.T) {
		out, err := p.exec(t.Context(), "ip", "addr", "show", "net1")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{mac, "inet 10.56.100.", ",UP", "mtu 1500"} {
			if !strings.Contains(out, want) {
				t.Errorf("net1 lacks %q:\n%s", want, out)
			}
		}
	})
	t.Run("network-status", func(t *testing.T) {
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
	})
}

// TestPodsTalkOverVFs has frames go from VF to VF, and stay in their VLAN.
func TestPodsTalkOverVFs(t *testing.T) {
	leaveNothing(t)
	a := pod{name: "a", networks: "vlan100", vfs: 1}
	b := pod{name: "b", networks: "vlan100", vfs: 1}
	other := pod{name: "other", networks: "vlan200@lan0", vfs: 1}
	for _, p := range []pod{a, b, other} {
		p.create(t)
	}
	addrs := make(map[pod]string)
	for _, p := range []pod{a, b, other} {
		p.running(t)
		addrs[p] = p.status(t)[1].IPs[0]
	}
	// Carrier comes seconds after a VF is up, and first frames are late.
	eventually(t, "a to reach b", func(ctx context.Context) error { return a.pings(ctx, "net1", addrs[b]) })
	eventually(t, "b to reach a", func(ctx context.Context) error { return b.pings(ctx, "net1", addrs[a]) })
	// Both are in one subnet and on one wire, so only the VLAN keeps them apart.
	if err := a.pings(t.Context(), "net1", addrs[other]); err == nil {
		t.Error("a pod on VLAN 100 reaches one on VLAN 200")
	}
}

// TestTwoVFsInOnePod asks for a network twice, by both forms of name.
func TestTwoVFsInOnePod(t *testing.T) {
	leaveNothing(t)
	p := pod{name: "two", networks: "vlan100, e2e/vlan200@data0", vfs: 2}
	p.create(t)
	p.running(t)
	var got []string
	devices := make(map[string]bool)
	for _, n := range p.status(t)[1:] {
		got = append(got, n.Name+" "+n.Interface)
		if n.DeviceInfo != nil {
			devices[n.DeviceInfo.PCI.Address] = true
		}
	}
	if diff := cmp.Diff([]string{"e2e/vlan100 net1", "e2e/vlan200 data0"}, got); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	if len(devices) != 2 {
		t.Errorf("the networks have VFs %v, want two", devices)
	}
}

// TestNoNetworks is what most pods are: they get the default network, and network-status all the same.
func TestNoNetworks(t *testing.T) {
	leaveNothing(t)
	p := pod{name: "plain"}
	p.create(t)
	p.running(t)
	if status := p.status(t); len(status) != 1 || !status[0].Default || status[0].Interface != "eth0" {
		t.Errorf("want the default network on eth0 alone: %+v", status)
	}
}

// TestMoreVFsThanFree has a pod wait for VFs until there are enough.
func TestMoreVFsThanFree(t *testing.T) {
	leaveNothing(t)
	holder := pod{name: "holder", vfs: 1}
	holder.create(t)
	holder.running(t)
	waiting := pod{name: "waiting", vfs: len(baseline.VFs)}
	waiting.create(t)
	waiting.event(t, "FailedScheduling", "Insufficient "+resource)
	waiting.unschedulable(t, "Insufficient "+resource)
	holder.remove(t.Context(), t)
	waiting.running(t)
	if got := waiting.devices(t); len(got) != len(baseline.VFs) {
		t.Errorf("it got VFs %v, want %d", got, len(baseline.VFs))
	}
}
