//go:build lab

package sriov_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/safchain/ethtool"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// These tests run the built plugin as a container runtime would, on VFs of real drivers: in the lab, as root.
//
//	make build bin/sriov-helper && go test -tags lab -exec "$PWD/bin/lab run --" ./internal/sriov/
var (
	plugin = flag.String("sriov-binary", "../../bin/sriov-cni", "the CNI plugin to test, another one to compare")
	// It is an IPAM plugin that gives fixed addresses and keeps a file per lease, and it starts what is traced.
	helper = flag.String("helper", "../../bin/sriov-helper", "what make bin/sriov-helper has built from testdata/helper")
)

const (
	numVFs  = 4 // on each PF
	records = "/run/viaduct/vf"
	leases  = "/run/test-leases"
	// patience is for a guest without hardware virtualisation on a busy machine.
	patience = time.Minute
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the lab:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	if err := fresh(*plugin); err != nil {
		return err
	}
	if err := fresh(*helper); err != nil {
		return err
	}
	for _, module := range []string{"igb", "igbvf"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			return fmt.Errorf("modprobe %s: %w: %s", module, err, out)
		}
	}
	if err := os.MkdirAll(leases, 0o700); err != nil {
		return err
	}
	pfs, err := eventually(func() ([]*pci.Device, error) {
		found, err := findPFs()
		if err == nil && len(found) == 0 {
			err = errors.New("no PF with an interface")
		}
		return found, err
	})
	if err != nil {
		return err
	}
	for _, pf := range pfs {
		uplink, _ := pf.Uplink()
		if out, err := exec.Command("ip", "link", "set", uplink.Name, "up").CombinedOutput(); err != nil {
			return fmt.Errorf("set PF %s up: %w: %s", uplink.Name, err, out)
		}
		if err := setNumVFs(pf.Address, numVFs); err != nil {
			return err
		}
	}
	return awaitVFs(numVFs * len(pfs))
}

func setNumVFs(pf pci.Address, n int) error {
	return os.WriteFile(filepath.Join("/sys/bus/pci/devices", pf.String(), "sriov_numvfs"), []byte(strconv.Itoa(n)), 0)
}

// awaitVFs waits until so many VFs of all PFs have an interface at home, and the PFs have carrier: without it igb refuses
// a VF any rate.
func awaitVFs(n int) error {
	_, err := eventually(func() (int, error) {
		vfs, err := findVFs()
		if err == nil && len(vfs) != n {
			err = fmt.Errorf("%d VFs with an interface, want %d", len(vfs), n)
		}
		pfs, pfErr := findPFs()
		for _, pf := range pfs {
			if uplink, ok := pf.Uplink(); ok && !uplink.Up {
				pfErr = errors.Join(pfErr, fmt.Errorf("PF %s (%s) has no carrier", pf.Address, uplink.Name))
			}
		}
		return 0, errors.Join(err, pfErr)
	})
	return err
}

// fresh refuses a plugin that is older than its sources: nothing is learned from testing yesterday's.
func fresh(path string) error {
	built, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: make build bin/sriov-helper makes it", err)
	}
	sources := map[string][]string{
		"sriov-cni":    {".", "../../pkg/vf", "../../pkg/netns", "../../pkg/pci", "../cni", "../netlinks", "../journal", "../../cmd/sriov-cni"},
		"sriov-helper": {"testdata/helper", "../tracetest"},
	}
	for _, dir := range sources[filepath.Base(path)] { // none of somebody else's
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err == nil && !strings.HasSuffix(f, "_test.go") && info.ModTime().After(built.ModTime()) {
				return fmt.Errorf("%s is older than %s: make build bin/sriov-helper", path, f)
			}
		}
	}
	return nil
}

func findPFs() ([]*pci.Device, error) {
	addresses, err := pci.Addresses("/")
	if err != nil {
		return nil, err
	}
	var pfs []*pci.Device
	for _, a := range addresses {
		d, err := pci.Read("/", a)
		if err != nil {
			return nil, err
		}
		if _, ok := d.Uplink(); ok && d.IsPF() {
			pfs = append(pfs, d)
		}
	}
	return pfs, nil
}

func findVFs() ([]*pci.Device, error) {
	pfs, err := findPFs()
	if err != nil {
		return nil, err
	}
	var vfs []*pci.Device
	for _, pf := range pfs {
		for _, a := range pf.VFs {
			d, err := pci.Read("/", a)
			if err == nil && len(d.Netdevs) > 0 {
				vfs = append(vfs, d)
			}
		}
	}
	return vfs, nil
}

// eventually asks f until it has no error.
func eventually[T any](f func() (T, error)) (T, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		v, err := f()
		if err == nil || time.Now().After(deadline) {
			return v, err
		}
	}
}

// A node is the host's side in one test.
type node struct {
	*testing.T
	host *vf.Conn
	vfs  []*pci.Device // of the first PF, all at home
}

func newNode(t *testing.T) *node {
	t.Helper()
	ns, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	host, err := vf.NewConn(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ns.Close()
		if t.Failed() { // the next test is not to blame
			for _, lease := range leaseFiles(t) {
				_ = os.Remove(filepath.Join(leases, lease))
			}
		}
	})
	vfs, err := findVFs()
	if err != nil || len(vfs) < numVFs {
		t.Fatalf("%d VFs at home, want %d: %v", len(vfs), numVFs, err)
	}
	return &node{T: t, host: host, vfs: vfs}
}

// A state is all of a VF that an attachment must leave as it was. One without an interface (vfio) has only settings.
type state struct {
	Driver   string
	Settings vf.Settings
	Netdev   vf.Netdev
	Features map[string]bool
	Rings    ethtool.Ring
}

func (n *node) state(d *pci.Device) state {
	n.Helper()
	s, err := n.stateNow(d)
	if err != nil {
		n.Fatal(err)
	}
	return s
}

func (n *node) pf(d *pci.Device) vf.PF {
	n.Helper()
	pf, err := pci.Read("/", d.PF)
	if err != nil {
		n.Fatal(err)
	}
	uplink, ok := pf.Uplink()
	if !ok {
		n.Fatalf("PF %s has no interface", pf.Address)
	}
	return vf.PF{Address: pf.Address.String(), Index: uplink.Index}
}

func (n *node) stateNow(d *pci.Device) (s state, err error) {
	if s.Settings, err = n.host.Read(n.pf(d), d.VFIndex); err != nil {
		return s, err
	}
	now, err := pci.Read("/", d.Address)
	if err != nil {
		return s, err
	}
	if s.Driver = now.Driver; s.Driver != "igbvf" && s.Driver != "" {
		return s, nil
	}
	if s.Netdev, err = n.host.Find(d.Address.String()); err != nil {
		return s, err
	}
	s.Netdev.Index = 0       // may change with a rebind
	s.Netdev.Carrier = false // not ours
	// By another program's code than the one that is tested.
	e, err := ethtool.NewEthtool()
	if err != nil {
		return s, fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	if s.Features, err = e.Features(s.Netdev.Name); err != nil {
		return s, fmt.Errorf("read the features of %s: %w", s.Netdev.Name, err)
	}
	if s.Rings, err = e.GetRing(s.Netdev.Name); err != nil {
		return s, fmt.Errorf("read the rings of %s: %w", s.Netdev.Name, err)
	}
	return s, nil
}
