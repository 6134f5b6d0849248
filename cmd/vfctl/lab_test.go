//go:build lab

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A night is a node with two VFs, on which things go wrong.
type night struct {
	*testing.T
	pf   string // its interface
	vfs  []*pci.Device
	bin  string
	pods int
}

func newNight(t *testing.T) *night {
	t.Helper()
	n := &night{T: t, bin: t.TempDir()}
	plugin, err := filepath.Abs("../../bin/sriov-cni")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, filepath.Join(n.bin, "sriov")); err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"igb", "igbvf"} {
		n.run("modprobe", module)
	}
	pf := n.waitForPF()
	uplink, _ := pf.Uplink()
	n.pf = uplink.Name
	n.run("ip", "link", "set", n.pf, "up")
	numVFs := filepath.Join("/sys/bus/pci/devices", pf.Address.String(), "sriov_numvfs")
	for _, count := range []string{"0", "2"} {
		if err := os.WriteFile(numVFs, []byte(count), 0o200); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.WriteFile(numVFs, []byte("0"), 0o200) })
	n.eventually("two VFs with interfaces", func() bool {
		n.vfs = nil
		now, err := pci.Read("/", pf.Address)
		if err != nil {
			return false
		}
		for _, a := range now.VFs {
			if d, err := pci.Read("/", a); err == nil && len(d.Netdevs) > 0 {
				n.vfs = append(n.vfs, d)
			}
		}
		return len(n.vfs) == 2
	})
	return n
}

func (n *night) waitForPF() (pf *pci.Device) {
	n.Helper()
	n.eventually("a PF", func() bool {
		snapshot, err := pci.Scan("/")
		if err != nil {
			n.Fatal(err)
		}
		for _, d := range snapshot.Devices() {
			if _, ok := d.Uplink(); ok && d.Driver == "igb" && d.IsPF() {
				pf = d
				return true
			}
		}
		return false
	})
	return pf
}

func (n *night) eventually(what string, done func() bool) {
	n.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.Fatalf("waited in vain for %s", what)
		}
	}
}

func (n *night) run(name string, args ...string) {
	n.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// conf is the definition of a network on VLAN 100 with a VF put in.
func conf(d *pci.Device) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "vlan100", "type": "sriov", "vlan": 100, "deviceID": %q}`, d.Address)
}

// attach makes a pod, and puts a VF into it.
func (n *night) attach(d *pci.Device) (ns, container string) {
	n.Helper()
	n.pods++
	ns, container = fmt.Sprintf("web%d", n.pods), fmt.Sprintf("c%d-%d", n.pods, os.Getpid())
	n.run("ip", "netns", "add", ns)
	n.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	cmd := exec.Command(filepath.Join(n.bin, "sriov"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+container, "CNI_IFNAME=net1", "CNI_NETNS=/run/netns/"+ns,
		"CNI_PATH="+n.bin, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+ns)
	cmd.Stdin = strings.NewReader(conf(d))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.Fatalf("ADD: %v: %s", err, out)
	}
	return ns, container
}

// A state is what a VF has to have again after everything.
type state struct {
	Settings vf.Settings
	Netdev   vf.Netdev
}

func (n *night) state(d *pci.Device) state {
	n.Helper()
	ns, err := netns.Current()
	if err != nil {
		n.Fatal(err)
	}
	defer ns.Close()
	host, err := vf.NewConn(ns)
	if err != nil {
		n.Fatal(err)
	}
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		n.Fatal(err)
	}
	uplink, _ := pf.Uplink()
	settings, err1 := host.Read(vf.PF{Address: d.PF.String(), Index: uplink.Index}, d.VFIndex)
	dev, err2 := host.Find(d.Address.String())
	if err := errors.Join(err1, err2); err != nil {
		n.Fatal(err)
	}
	dev.Index, dev.Carrier = 0, false
	return state{settings, dev}
}

// want runs vfctl, and expects words in what it prints, or in its error if there are some for that.
func (n *night) want(args, out, failure string) string {
	n.Helper()
	got, err := vfctl(n.T, strings.Fields(args)...)
	switch {
	case err != nil && failure == "":
		n.Errorf("vfctl %s: %v\n%s", args, err, got)
	case failure != "" && (err == nil || !strings.Contains(err.Error(), failure)):
		n.Errorf("vfctl %s: %v, want %q", args, err, failure)
	case !strings.Contains(got, out):
		n.Errorf("vfctl %s: no %q in\n%s", args, out, got)
	}
	return got
}

// listed is a VF as a program sees it.
func (n *night) listed(d *pci.Device) operator.VF {
	n.Helper()
	var v operator.VF
	if err := json.Unmarshal([]byte(n.want("show -o json "+d.Address.String(), "", "")), &v); err != nil {
		n.Fatal(err)
	}
	return v
}

func (n *night) wantState(d *pci.Device, want operator.State, differences ...string) {
	n.Helper()
	v := n.listed(d)
	var got []string
	for _, x := range v.Differences {
		got = append(got, x.String())
	}
	if diff := cmp.Diff(differences, got); diff != "" || v.State != want {
		n.Errorf("%s is %s, want %s; differences (-want +got):\n%s", v.Address, v.State, want, diff)
	}
}

// On real VFs with the real plugin: what list shows, what restore refuses and does, what gc finds.
func TestNight(t *testing.T) {
	n := newNight(t)
	first, second := n.vfs[0], n.vfs[1]
	before := n.state(first)
	index := strconv.Itoa(first.VFIndex)
	wantBefore := func(after string) {
		t.Helper()
		if diff := cmp.Diff(before, n.state(first)); diff != "" {
			t.Errorf("after %s (-before +after):\n%s", after, diff)
		}
	}

	n.wantState(first, operator.Free)
	pod, _ := n.attach(first)
	n.wantState(first, operator.Attached)
	if o := n.listed(first).Owner; o == nil || o.Namespace != "default" || o.Pod != pod || o.Interface != "net1" || !o.Alive {
		t.Errorf("owner %+v", o)
	}
	n.want("list", "default/"+pod+" net1  vlan 100\n", "")

	n.run("ip", "link", "set", n.pf, "vf", index, "vlan", "200")
	n.wantState(first, operator.Attached, "vlan is 200, QoS 0, 802.1q, and should be 100, QoS 0, 802.1q")
	n.want("list", "! vlan is 200, QoS 0, 802.1q, and should be 100", "")
	n.run("ip", "-n", pod, "link", "set", "net1", "down")
	n.run("ip", "-n", pod, "link", "set", "net1", "name", "mine")
	n.want("list", "! name is mine, and should be net1", "")

	n.want("restore "+n.pf+"#"+index, "", "the VF's owner is alive")
	n.want("gc", "nothing is left over", "")
	n.want("restore "+second.Address.String(), "has no record", "")
	n.want("restore "+n.pf, "", "is a PF: name one of its VFs")

	n.run("ip", "netns", "del", pod)
	n.eventually("the pod's end", func() bool { return n.listed(first).State == operator.Left })
	n.want("gc --dry-run", "nobody will come for it: would be put back", "")
	n.want("restore "+n.pf+"#"+index, "put back as it was before", "")
	wantBefore("restore")
	n.wantState(first, operator.Free)

	n.run("ip", "link", "set", n.pf, "vf", index, "trust", "on")
	n.wantState(first, operator.Free, "trust is on, and should be off")
	n.want("restore "+first.Address.String(), "", "whether a pod has the VF is not known") // there is no kubelet
	n.want("restore --force "+first.Address.String(), "put back as it was before", "")
	wantBefore("restore of a free VF")
	n.want("restore --force "+first.Address.String(), "nothing to do", "")

	n.attach(first)
	n.want("restore --force "+first.Address.String(), "put back as it was before", "")
	wantBefore("restore by force")

	pod, _ = n.attach(first)
	n.run("ip", "netns", "del", pod)
	n.want("gc", "put back as it was before", "")
	wantBefore("gc")
	n.want("gc", "nothing is left over", "")
}

func TestNightOfBrokenRecords(t *testing.T) {
	n := newNight(t)
	d := n.vfs[0]
	pod, _ := n.attach(d)
	record := filepath.Join(sriov.DefaultDir, d.Address.String()+".json")
	if err := os.Truncate(record, 40); err != nil {
		t.Fatal(err)
	}
	n.wantState(d, operator.Unreadable)
	n.want("gc", "", "corrupt record")
	n.want("restore "+d.Address.String(), "", "the VF's record cannot be read")
	n.run("ip", "netns", "del", pod)
	n.want("restore --force "+d.Address.String(), "reset to safe defaults", "")
	if v := n.state(d).Settings.VLAN; v == nil || v.ID != 0 {
		t.Errorf("VLAN %v", v)
	}
	n.wantState(d, operator.Free)

	dir := filepath.Join(t.TempDir(), "report")
	n.attach(d)
	n.want("report --to "+dir, "", "")
	for _, name := range []string{"list.txt", "kernel.txt", "node" + record} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(data), d.Address.String()) && name != "node"+record {
			t.Errorf("%s: %v: %s", name, err, data)
		}
	}
	n.want("list --root "+dir+"/node", "attached", "")
	n.want("restore --force "+d.Address.String(), "put back", "")
}

// A sandbox of the meta CNI plugin that nobody deletes: gc runs its networks' DEL, and the VF is back.
func TestNightOfASandbox(t *testing.T) {
	n := newNight(t)
	d := n.vfs[0]
	before := n.state(d)
	pod, container := n.attach(d)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	rec := &delegate.Record{
		ContainerID: container, Pod: network.Pod{Namespace: "default", Name: pod}, IfName: "eth0", Phase: delegate.Added,
		Boot: strings.TrimSpace(string(boot)), Netns: delegate.Netns{Path: "/run/netns/" + pod, Dev: 1, Inode: 1},
		Attachments: []delegate.Attached{{Phase: delegate.Added, Attachment: network.Attachment{
			Name: "default/vlan100", IfName: "net1",
			Config: json.RawMessage(`{"cniVersion": "1.0.0", "name": "vlan100", "plugins": [` + conf(d) + `]}`),
			Device: &network.Device{Resource: "intel.com/sriov", ID: d.Address.String()},
		}}},
	}
	if err := delegate.Records(delegate.DefaultDir).Write(container, rec); err != nil {
		t.Fatal(err)
	}
	if v := n.listed(d); v.Resource != "intel.com/sriov" {
		t.Errorf("it is in %q", v.Resource)
	}
	n.run("ip", "netns", "del", pod)
	out := n.want("gc --cni-bin-dir "+n.bin, "torn down", "")
	if !strings.Contains(out, "default/"+pod) {
		t.Errorf("gc: %s", out)
	}
	if diff := cmp.Diff(before, n.state(d)); diff != "" {
		t.Errorf("after gc (-before +after):\n%s", diff)
	}
	n.want("gc", "nothing is left over", "")
}
