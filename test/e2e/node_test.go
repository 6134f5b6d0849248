//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// A vf is what the kernel says of a virtual function: its entry on the PF, and its link if the node's own namespace has it.
type vf struct {
	PF    string
	Index int
	Entry vfEntry
	Link  *vfLink
}

type vfEntry struct {
	MAC            string
	VLAN, QoS      int
	VLANProto      int
	SpoofCheck     bool
	Trust          bool
	LinkState      uint32
	MinRate, Rate  uint32
	MaxRate, RSSOn uint32
}

type vfLink struct {
	Name, MAC, Alias string
	AltNames         []string
	MTU              int
	Up               bool
	Promisc          int
	AllMulti         int
	Addresses        int
}

// A picture is the state of the node that pods must leave as they found it.
type picture struct {
	VFs   map[string]vf // by PCI address
	Files []string      // records, journals, device-info of pods, leases, network namespaces
	Veths []string      // the node's ends of pods' default network
}

// look takes the picture. It reads through the kernel's own interfaces, none of them the product's.
func look() (picture, error) {
	p := picture{VFs: make(map[string]vf)}
	found, err := filepath.Glob("/sys/bus/pci/devices/*/physfn")
	if err != nil {
		return p, err
	}
	for _, path := range found {
		address := filepath.Base(filepath.Dir(path))
		if p.VFs[address], err = lookAtVF(address); err != nil {
			return p, fmt.Errorf("VF %s: %w", address, err)
		}
	}
	if p.Files, err = stateFiles(); err != nil {
		return p, err
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // a link came or went meanwhile
		links, err = netlink.LinkList()
	}
	for _, link := range links {
		if link.Type() == "veth" {
			p.Veths = append(p.Veths, link.Attrs().Name)
		}
	}
	slices.Sort(p.Veths)
	return p, err
}

func lookAtVF(address string) (vf, error) {
	pf, index, err := physicalFunction(address)
	if err != nil {
		return vf{}, err
	}
	link, err := netlink.LinkByName(pf)
	if err != nil {
		return vf{}, fmt.Errorf("read PF %s: %w", pf, err)
	}
	v, found := vf{PF: pf, Index: index}, false
	for _, e := range link.Attrs().Vfs {
		if e.ID == index {
			found = true
			v.Entry = vfEntry{
				MAC: e.Mac.String(), VLAN: e.Vlan, QoS: e.Qos, VLANProto: e.VlanProto, SpoofCheck: e.Spoofchk,
				Trust: e.Trust != 0, LinkState: e.LinkState, MinRate: e.MinTxRate, MaxRate: e.MaxTxRate,
				Rate: uint32(e.TxRate), RSSOn: e.RssQuery,
			}
		}
	}
	if !found {
		return vf{}, fmt.Errorf("PF %s has no entry of VF %d", pf, index)
	}
	v.Link, err = vfNetdev(address)
	return v, err
}

// physicalFunction finds the VF's PF, by name, and its place there.
func physicalFunction(address string) (pf string, index int, err error) {
	physfn := filepath.Join("/sys/bus/pci/devices", address, "physfn")
	names, err := filepath.Glob(filepath.Join(physfn, "net/*"))
	if err != nil || len(names) != 1 {
		return "", 0, errors.Join(fmt.Errorf("links of the PF: %q, want one", names), err)
	}
	for i := 0; ; i++ {
		target, err := os.Readlink(filepath.Join(physfn, fmt.Sprintf("virtfn%d", i)))
		if err != nil {
			return "", 0, fmt.Errorf("it is not among the VFs of its PF: %w", err)
		}
		if filepath.Base(target) == address {
			return filepath.Base(names[0]), i, nil
		}
	}
}

// vfNetdev reads the VF's link, nil if it is in a pod.
func vfNetdev(address string) (*vfLink, error) {
	names, err := filepath.Glob(filepath.Join("/sys/bus/pci/devices", address, "net/*"))
	if err != nil || len(names) == 0 {
		return nil, err
	}
	link, err := netlink.LinkByName(filepath.Base(names[0]))
	if err != nil {
		return nil, err
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	return &vfLink{
		Name: a.Name, MAC: a.HardwareAddr.String(), Alias: a.Alias, AltNames: a.AltNames, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
		Promisc: a.Promisc, AllMulti: a.Allmulti, Addresses: len(addrs),
	}, nil
}

// stateFolders is where the product, the IPAM plugin it calls and containerd keep what belongs to a pod.
var stateFolders = []string{
	vfRecords, "/run/viaduct/pods", "/var/lib/viaduct", "/var/run/k8s.cni.cncf.io/devinfo/cni", "/var/lib/cni", "/run/netns",
}

const vfRecords = "/run/viaduct/vf"

// isFree tells whether a VF's record says that nobody has it.
func isFree(path string) bool {
	var file struct{ Record struct{ Phase string } }
	data, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(data, &file) == nil && file.Record.Phase == "free"
}

// stateFiles lists what is there, but for what is kept for good, once per node, network or VF: locks, when the last sweep was,
// the address that an IPAM plugin gave last, the record that says that a VF is as it should be.
func stateFiles() ([]string, error) {
	var files []string
	for _, folder := range stateFolders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			switch name := filepath.Base(path); {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case d.IsDir(), name == "lock", strings.HasPrefix(name, "last_reserved_ip"), filepath.Dir(path) == "/run/viaduct/pods/sweep":
				return nil
			case filepath.Dir(path) == vfRecords && (strings.HasSuffix(name, ".lock") || isFree(path)):
				return nil
			}
			files = append(files, path)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// mustLook is look for a test.
func mustLook(t *testing.T) picture {
	t.Helper()
	p, err := look()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// baseline is the node before the first pod.
var baseline picture

// takeVFsForBaseline takes the VFs as they are now for what they were before the first pod. Files are not taken: the last pod's
// may still be on their way out.
func takeVFsForBaseline() error {
	now, err := look()
	if err == nil {
		baseline.VFs = now.VFs
	}
	return err
}

// leaveNothing has the test fail unless the node is as it was before the first pod when the test's pods are gone. Call it
// before making any: what a test did not clean up must not become the next one's normal.
func leaveNothing(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if err := poll(context.WithoutCancel(t.Context()), isBaseline); err != nil {
			t.Errorf("waiting for the node to be as it was: %v", err)
		}
	})
}

func isBaseline(context.Context) error {
	now, err := look()
	if err != nil {
		return err
	}
	if diff := cmp.Diff(baseline, now); diff != "" {
		return fmt.Errorf("it differs (-before +now):\n%s", diff)
	}
	return nil
}
