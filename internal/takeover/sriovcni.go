package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SRIOV is the folder of sriov-cni, on a node /var/lib/cni/sriov:
//
//	<container id>-<ifname>     the attachment's configuration, and what its VF was before
//	pci/<PCI address>           the path of the network namespace that has the VF
//	pci/vf_lock/<address>.lock  held with flock(2) while it works on the VF
type SRIOV string

// An Attachment is what sriov-cni saved of one VF in one pod.
type Attachment struct {
	ContainerID, IfName string
	Network             string
	Netns               string    // path; empty if another attachment has the VF by now
	Saved               time.Time // when

	Before VFState
	// Config, Args are those of the ADD, if libcni's cache has them: the saved configuration lacks the IPAM plugin's own keys.
	Config []byte
	Args   string

	path string
}

// VFState is a VF as sriov-cni found it. Nil and zero stand for what its version did not save.
type VFState struct {
	HostIFName   string // empty: the VF had no interface
	AdminMAC     string
	EffectiveMAC string
	MTU          int
	SpoofChk     *bool
	Trust        *bool
	Vlan         int
	VlanQoS      int
	VlanProto    int // an EtherType
	MinTxRate    int // Mbit/s
	MaxTxRate    int // Mbit/s
	LinkState    uint32
}

// VF reads whose the VF at address is, with what it was before. Others that once had it, and whose file is still there, are
// in older. Errors wrap ErrNotExist or ErrCorrupt, or are the file system's own.
func (s SRIOV) VF(address string) (now *Attachment, older []*Attachment, err error) {
	netns, err := read(s.pci(address))
	if err != nil {
		return nil, nil, err
	}
	all, err := s.attachments(func(device string) bool { return device == address })
	if err != nil {
		return nil, nil, err
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("%w: %s says that the VF is in use, and no file of its owner is there", ErrCorrupt, s.pci(address))
	}
	// The file of an owner whose DEL failed stays. The VF is whose was saved last.
	slices.SortFunc(all, func(a, b *Attachment) int { return b.Saved.Compare(a.Saved) })
	all[0].Netns = strings.TrimSpace(string(netns))
	return all[0], all[1:], nil
}

// Device is the PCI address of the attachment's VF; empty if there is no such attachment.
func (s SRIOV) Device(containerID, ifName string) string {
	if s == "" {
		return ""
	}
	var saved struct {
		DeviceID string `json:"deviceID"`
	}
	path := filepath.Join(string(s), containerID+"-"+ifName)
	if filepath.Dir(path) != filepath.Clean(string(s)) || readJSON(path, &saved) != nil {
		return ""
	}
	return saved.DeviceID
}

// VFs lists the addresses of the VFs that sriov-cni says are in use.
func (s SRIOV) VFs() ([]string, error) { return plainFiles(s.pci("")) }

// Idle takes sriov-cni's lock of the VF, so that none of its calls is at work on it until release. ok is false if one is.
func (s SRIOV) Idle(address string) (release func(), ok bool) {
	f, err := os.Open(filepath.Join(s.pci("vf_lock"), address+".lock"))
	if err != nil {
		return func() {}, true // versions before 2.9 have none
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, false
	}
	return func() { _ = f.Close() }, true
}

// Forget removes what is saved of the VF, and of the attachments.
func (s SRIOV) Forget(address string, attachments ...*Attachment) error {
	var errs []error
	for _, a := range attachments {
		errs = append(errs, remove(a.path))
	}
	return errors.Join(append(errs, remove(s.pci(address)))...)
}

// SetAside renames the VF's file, which then says to nobody that the VF is in use. It returns where it is now. The error wraps
// ErrNotExist if there is none.
func (s SRIOV) SetAside(address string) (string, error) {
	if _, err := os.Lstat(s.pci(address)); s == "" || errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s", ErrNotExist, s.pci(address))
	}
	dir := filepath.Join(string(s), "viaduct-corrupt")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("set saved state aside: %w", err)
	}
	path := filepath.Join(dir, address)
	return path, os.Rename(s.pci(address), path)
}

func (s SRIOV) pci(name string) string { return filepath.Join(string(s), "pci", name) }

func (s SRIOV) attachments(of func(device string) bool) (out []*Attachment, err error) {
	entries, err := os.ReadDir(string(s))
	if err != nil {
		return nil, fmt.Errorf("read saved state: %w", err)
	}
	for _, e := range entries {
		cut := strings.IndexByte(e.Name(), '-') // container ids have none; interface names may
		info, err := e.Info()
		if cut < 1 || err != nil || !info.Mode().IsRegular() {
			continue
		}
		a := &Attachment{ContainerID: e.Name()[:cut], IfName: e.Name()[cut+1:], Saved: info.ModTime(), path: filepath.Join(string(s), e.Name())}
		var saved struct {
			DeviceID string   `json:"deviceID"`
			Name     string   `json:"name"`
			Before   *VFState `json:"OrigVfState"`
		}
		if readJSON(a.path, &saved) != nil || saved.Before == nil || !of(saved.DeviceID) {
			continue
		}
		a.Network, a.Before = saved.Name, *saved.Before
		for _, cache := range []string{"multus/results", "results"} {
			// The folders are siblings on every node.
			c, _, err := cached(filepath.Join(filepath.Dir(string(s)), cache), a.Network, a.ContainerID, a.IfName)
			if err == nil && c.Config != nil {
				a.Config, a.Args = c.Config, c.CNIArgs()
			}
		}
		out = append(out, a)
	}
	return out, nil
}
