//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDualStack has a static pod and an ordinary one talk by IPv4 and IPv6, over a network with both and over one with IPv6
// alone. The static pod has two VFs of one PF, and names its networks by both forms; the other names its VFs, one of each PF.
func TestDualStack(t *testing.T) {
	leaveNothing(t)
	static := pod{name: "static", networks: "dual, e2e/six@data0", vfs: 2}.createStatic(t)
	static.running(t)
	taken := slices.Sorted(slices.Values(static.devices(t))) // networks take them in this order
	if len(taken) != 2 || baseline.VFs[taken[0]].PF != baseline.VFs[taken[1]].PF {
		t.Fatalf("the static pod has VFs %v, want two of one PF", taken)
	}

	left, right := freeOfTwoPFs(t)
	ordinary := pod{
		name: "ordinary", vfs: len(baseline.VFs) - len(taken), // all that are left, so that those two are among them
		networks: fmt.Sprintf(`[{"name": "dual", "deviceID": %q}, {"name": "six", "interface": "data0", "deviceID": %q}]`, left, right),
	}
	ordinary.create(t)
	ordinary.running(t)

	now := mustLook(t).VFs
	for i, pair := range [][2]string{{taken[0], left}, {taken[1], right}} {
		for _, vf := range pair {
			if got := now[vf]; got.Entry.VLAN != 300+i || got.Link != nil {
				t.Errorf("VF %s has VLAN %d and on the node %v, want %d and no link", vf, got.Entry.VLAN, got.Link, 300+i)
			}
		}
	}
	static.hasDualStack(t, taken[0], taken[1])
	ordinary.hasDualStack(t, left, right)

	dual, six := ordinary.status(t)[1].IPs, ordinary.status(t)[2].IPs
	for _, to := range []struct{ link, addr string }{{"net1", dual[0]}, {"net1", dual[1]}, {"data0", six[0]}} {
		// Carrier comes seconds after a VF is up, and first frames are late.
		eventually(t, "the static pod to reach "+to.addr, func(ctx context.Context) error { return static.pings(ctx, to.link, to.addr) })
	}
}

// hasDualStack compares network-status, and the pod's own interfaces with it: net1 on network dual, data0 on six.
func (p pod) hasDualStack(t *testing.T, dual, six string) {
	t.Helper()
	out, err := p.exec(t.Context(), "ip", "addr")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range p.status(t)[1:] {
		device := ""
		if n.DeviceInfo != nil {
			device = n.DeviceInfo.PCI.Address
		}
		var subnets []string
		for _, ip := range n.IPs {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				t.Fatalf("an address in the network-status of %s: %v", p.name, err)
			}
			bits := 64
			if addr.Is4() {
				bits = 24
			}
			subnet := netip.PrefixFrom(addr, bits)
			subnets = append(subnets, subnet.Masked().String())
			if !strings.Contains(out, subnet.String()) {
				t.Errorf("network-status of %s has %s, its interfaces do not:\n%s", p.name, subnet, out)
			}
		}
		got = append(got, strings.Join(append([]string{n.Name, n.Interface, device}, subnets...), " "))
	}
	want := []string{"e2e/dual net1 " + dual + " 10.56.30.0/24 fd00:56:30::/64", "e2e/six data0 " + six + " fd00:56:31::/64"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("network-status of %s (-want +got):\n%s", p.name, diff)
	}
}

// freeOfTwoPFs are two VFs that no pod has.
func freeOfTwoPFs(t *testing.T) (one, other string) {
	t.Helper()
	vfs := mustLook(t).VFs
	for address, v := range vfs {
		switch {
		case v.Link == nil:
		case one == "":
			one = address
		case v.PF != vfs[one].PF:
			return one, address
		}
	}
	t.Fatal("no two PFs have a free VF each")
	return "", ""
}

// manifests is the kubelet's staticPodPath.
const manifests = "/etc/kubernetes/manifests"

// createStatic has the kubelet run the pod from a file, and returns the pod as the API server shows it: under another name
// and another UID. When the test ends the file is removed, and the pod gone.
func (p pod) createStatic(t *testing.T) pod {
	t.Helper()
	spec := p.spec()
	spec.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(manifests, p.name+".json")
	mirror := p
	mirror.name += "-" + os.Getenv("NODE_NAME")
	t.Cleanup(func() {
		err := os.Remove(file)
		gone := poll(context.WithoutCancel(t.Context()), func(ctx context.Context) error {
			if _, err := mirror.get(ctx); !apierrors.IsNotFound(err) {
				return errors.Join(err, errors.New("it is still there"))
			}
			return nil
		})
		if err := errors.Join(err, gone); err != nil {
			t.Errorf("remove static pod %s: %v", p.name, err)
		}
	})
	// By rename: the kubelet reads a file as soon as it is there.
	hidden := filepath.Join(manifests, "."+p.name)
	if err := errors.Join(os.WriteFile(hidden, data, 0o600), os.Rename(hidden, file)); err != nil {
		t.Fatal(err)
	}
	return mirror
}
