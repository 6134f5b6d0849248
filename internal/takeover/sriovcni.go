package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// SRIOV is the folder of sriov-cni, on a node /var/lib/cni/sriov:
//
//	<container id>-<ifname>     the attachment's configuration, and what its VF was before
//	pci/<PCI address>           the path of the network namespace that has the VF; versions before 2.7 have none, and an
//	                            ADD that was killed may not have come to it
//	pci/vf_lock/<address>.lock  held with flock(2) while it works on the VF; versions before 2.10 hold the file above, and
//	                            leave it empty if the ADD fails
type SRIOV string

// An Attachment is what sriov-cni saved of one VF in one pod.
type Attachment struct {
	ContainerID, IfName string
	Network             string
	Netns               string    // path; empty if another attachment has the VF by now, or where it is was not saved
	Saved               time.Time // when

	Before VFState
	// Config, Args are those of the ADD, if libcni's cache has them: the saved configuration lacks the IPAM plugin's own keys.
	Config []byte
	Args   string

	path   string
	cached string // the namespace, as libcni's cache has it
	fault  error  // why the file cannot be right
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
// in older. Errors wrap ErrNotExist or ErrCorrupt, or are the file system's own; with ErrCorrupt, now tells where the VF is
// and when that was saved, and nothing else.
func (s SRIOV) VF(address string) (now *Attachment, older []*Attachment, err error) {
	all, err := s.attachments(address)
	if err != nil {
		return nil, nil, err
	}
	where, err := s.where(address)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return where, nil, err
	}
	switch {
	case len(all) == 0 && where.Netns == "":
		return nil, nil, fmt.Errorf("%w of VF %s in %s", ErrNotExist, address, s)
	case len(all) == 0:
		return where, nil, fmt.Errorf("%w: %s says that the VF is in use, and no file of its owner is there", ErrCorrupt, s.pci(address))
	}
	// The file of an owner whose DEL failed stays. The VF is whose was saved last.
	slices.SortFunc(all, func(a, b *Attachment) int { return b.Saved.Compare(a.Saved) })
	now = all[0]
	if where.Netns == "" {
		where.Netns, where.Saved = now.cached, now.Saved
	}
	if now.fault != nil {
		return where, nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, now.path, now.fault)
	}
	now.Netns = where.Netns
	return now, all[1:], nil
}

// where reads the namespace that has the VF, and since when: as much of it as can be read, with the error.
func (s SRIOV) where(address string) (*Attachment, error) {
	a := &Attachment{}
	if info, err := os.Lstat(s.pci(address)); err == nil {
		a.Saved = info.ModTime()
	}
	text, err := read(s.pci(address))
	a.Netns = strings.TrimSpace(string(text))
	return a, err
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

// Idle takes sriov-cni's locks of the VF, so that none of its calls is at work on it until release. ok is false if one is.
func (s SRIOV) Idle(address string) (release func(), ok bool) {
	var held []*os.File
	release = func() {
		for _, f := range held {
			_ = f.Close()
		}
	}
	for _, path := range []string{filepath.Join(s.pci("vf_lock"), address+".lock"), s.pci(address)} {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // not for a pipe that somebody has put there
		if err != nil {
			continue // not every version has both
		}
		held = append(held, f)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			release()
			return nil, false
		}
	}
	return release, true
}

// Forget removes what is saved of the VF, and of the attachments.
func (s SRIOV) Forget(address string, attachments ...*Attachment) error {
	var errs []error
	for _, a := range attachments {
		errs = append(errs, remove(a.path))
	}
	return errors.Join(append(errs, remove(s.pci(address)))...)
}

// SetAside moves what is saved of the VF to a folder for persons, so that it says to nobody that the VF is in use. It returns
// where one of the files is now. The error wraps ErrNotExist if there is none.
func (s SRIOV) SetAside(address string) (path string, err error) {
	if s == "" {
		return "", fmt.Errorf("%w of VF %s", ErrNotExist, address)
	}
	all, err := s.attachments(address)
	if err != nil {
		return "", err
	}
	files := map[string]string{}
	if _, err := os.Lstat(s.pci(address)); err == nil {
		files[s.pci(address)] = address
	}
	for _, a := range all {
		files[a.path] = address + "-" + filepath.Base(a.path)
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%w of VF %s", ErrNotExist, address)
	}
	dir := filepath.Join(string(s), "viaduct-corrupt")
	if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("set saved state aside: %w", err)
	}
	var errs []error
	for from, name := range files {
		to := filepath.Join(dir, name)
		switch err := os.Rename(from, to); {
		case err == nil:
			path = to
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("set saved state aside: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil || path != "" {
		return path, err
	}
	return "", fmt.Errorf("%w: %s", ErrNotExist, s.pci(address))
}

func (s SRIOV) pci(name string) string { return filepath.Join(string(s), "pci", name) }

// attachments reads all files that say that they are of the VF at address.
func (s SRIOV) attachments(address string) (out []*Attachment, err error) {
	entries, err := os.ReadDir(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
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
		if s.read(a) == address {
			out = append(out, a)
		}
	}
	return out, nil
}

// read fills in the attachment from its file, and gives its VF; empty if the file does not even tell that.
func (s SRIOV) read(a *Attachment) (address string) {
	var saved struct {
		DeviceID string `json:"deviceID"`
		Name     string `json:"name"`
	}
	var was struct {
		Before *VFState `json:"OrigVfState"`
	}
	if readJSON(a.path, &saved) != nil {
		return ""
	}
	switch err := readJSON(a.path, &was); {
	case err != nil:
		a.fault = err
	case was.Before == nil:
		a.fault = errors.New("it does not say what the VF was before")
	default:
		a.Before = *was.Before
		a.fault = was.Before.check()
	}
	a.Network = saved.Name
	for _, cache := range []string{"multus/results", "results"} {
		// The folders are siblings on every node.
		c, _, err := cached(filepath.Join(filepath.Dir(string(s)), cache), a.Network, a.ContainerID, a.IfName)
		if err == nil && c.Config != nil {
			a.Config, a.Args, a.cached = c.Config, c.CNIArgs(), c.Netns
		}
	}
	return saved.DeviceID
}

// check finds values that no kernel takes: restoring them would fail again and again, and the rest is not to be trusted either.
func (s *VFState) check() error {
	var errs []error
	want := func(ok bool, field string, value any) {
		if !ok {
			errs = append(errs, fmt.Errorf("OrigVfState.%s is %v", field, value))
		}
	}
	want(s.HostIFName == "" || len(s.HostIFName) < unix.IFNAMSIZ && s.HostIFName != "." && s.HostIFName != ".." &&
		!strings.ContainsFunc(s.HostIFName, notInNames), "HostIFName", fmt.Sprintf("%.40q", s.HostIFName))
	want(isMAC(s.AdminMAC), "AdminMAC", fmt.Sprintf("%.40q", s.AdminMAC))
	want(isMAC(s.EffectiveMAC), "EffectiveMAC", fmt.Sprintf("%.40q", s.EffectiveMAC))
	want(s.MTU == 0 || s.MTU >= 68 && s.MTU <= 65535, "MTU", s.MTU)
	want(s.Vlan >= 0 && s.Vlan < 4095, "Vlan", s.Vlan)
	want(s.VlanQoS >= 0 && s.VlanQoS < 8, "VlanQoS", s.VlanQoS)
	want(s.VlanProto == 0 || s.VlanProto == unix.ETH_P_8021Q || s.VlanProto == unix.ETH_P_8021AD, "VlanProto", s.VlanProto)
	want(s.MinTxRate >= 0 && s.MinTxRate <= math.MaxInt32, "MinTxRate", s.MinTxRate)
	want(s.MaxTxRate >= 0 && s.MaxTxRate <= math.MaxInt32, "MaxTxRate", s.MaxTxRate)
	want(s.LinkState <= 2, "LinkState", s.LinkState) // auto, enable, disable
	return errors.Join(errs...)
}

// notInNames is what the kernel takes in no interface's name, or, as with "eth%d", makes another one of.
func notInNames(r rune) bool {
	return r == '/' || r == ':' || r == '%' || r <= ' ' || r == 0x7f || r == utf8.RuneError
}

// isMAC reports whether s is empty or an address that one interface can have.
func isMAC(s string) bool {
	a, err := net.ParseMAC(s)
	return s == "" || err == nil && len(a) == 6 && a[0]&1 == 0
}
