//go:build lab

package sriov_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/safchain/ethtool"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// These tests run the built plugin as a container runtime would, on VFs of real drivers: in the lab, as root.
//
//	make build && go test -tags lab -exec "$PWD/bin/lab run --" ./internal/sriov/
var plugin = flag.String("sriov-binary", "../../bin/sriov-cni", "the CNI plugin to test, another one to compare")

const (
	numVFs  = 3
	records = "/run/viaduct/vf"
	leases  = "/run/test-leases"
	// patience is for a guest without hardware virtualisation on a busy machine.
	patience = time.Minute
)

// The test binary is the IPAM plugin, too, under another name: one that gives fixed addresses, and keeps a file per lease.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "test-ipam" {
		if err := beIPAM(); err != nil {
			_ = types.NewError(types.ErrInternal, err.Error(), "").Print()
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "be-traced" {
		fmt.Fprintln(os.Stderr, "run the traced program:", beTraced(os.Args[2:]))
		os.Exit(1)
	}
	flag.Parse()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the lab:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// beIPAM answers one call. Its "ipam" section may say "addresses", "hang": "ADD", "fail": "DEL".
func beIPAM() error {
	var in struct {
		IPAM struct {
			Addresses []string `json:"addresses"`
			Hang      string   `json:"hang"`
			Fail      string   `json:"fail"`
		} `json:"ipam"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	verb, lease := os.Getenv("CNI_COMMAND"), filepath.Join(leases, os.Getenv("CNI_CONTAINERID")+"-"+os.Getenv("CNI_IFNAME"))
	if in.IPAM.Fail == verb {
		return errors.New("told to fail")
	}
	switch verb {
	case "ADD":
		if err := os.WriteFile(lease, nil, 0o600); err != nil {
			return err
		}
	case "GC": // of everything
		if err := os.RemoveAll(leases); err != nil {
			return err
		}
		return os.Mkdir(leases, 0o700)
	case "DEL":
		if err := os.Remove(lease); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if in.IPAM.Hang == verb {
		time.Sleep(time.Hour)
	}
	if verb != "ADD" {
		return nil
	}
	r := &types100.Result{CNIVersion: "1.0.0"}
	for _, a := range in.IPAM.Addresses {
		n, err := types.ParseCIDR(a)
		if err != nil {
			return err
		}
		r.IPs = append(r.IPs, &types100.IPConfig{Address: *n})
	}
	return r.Print()
}

func prepare() error {
	if err := fresh(*plugin); err != nil {
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
		path := filepath.Join("/sys/bus/pci/devices", pf.Address.String(), "sriov_numvfs")
		if err = os.WriteFile(path, []byte(strconv.Itoa(numVFs)), 0); err != nil {
			return err
		}
	}
	_, err = eventually(func() (int, error) {
		vfs, findErr := findVFs()
		if findErr == nil && len(vfs) < numVFs*len(pfs) {
			findErr = fmt.Errorf("%d VFs with an interface", len(vfs))
		}
		return 0, findErr
	})
	return err
}

// fresh refuses a plugin that is older than its sources: nothing is learned from testing yesterday's.
func fresh(path string) error {
	built, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	if filepath.Base(path) != "sriov-cni" {
		return nil // somebody else's
	}
	for _, dir := range []string{".", "../../pkg/vf", "../../pkg/netns", "../../pkg/pci", "../netlinks", "../journal", "../../cmd/sriov-cni"} {
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err == nil && !strings.HasSuffix(f, "_test.go") && info.ModTime().After(built.ModTime()) {
				return fmt.Errorf("%s is older than %s: make build", path, f)
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
	t.Cleanup(func() { _ = ns.Close() })
	vfs, err := findVFs()
	if err != nil || len(vfs) < numVFs {
		t.Fatalf("%d VFs at home, want %d: %v", len(vfs), numVFs, err)
	}
	return &node{T: t, host: host, vfs: vfs}
}

// A state is all of a VF that an attachment must leave as it was.
type state struct {
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

// A pod is a network namespace and a container id.
type pod struct {
	*node
	id, ns string
}

var pods int

func (n *node) newPod() *pod {
	n.Helper()
	pods++
	p := &pod{node: n, id: fmt.Sprintf("c%d-%d", pods, os.Getpid()), ns: fmt.Sprintf("pod%d", pods)}
	n.ip("netns", "add", p.ns)
	n.Cleanup(func() { _ = exec.Command("ip", "netns", "del", p.ns).Run() })
	return p
}

func (p *pod) path() string { return "/run/netns/" + p.ns }

func (p *pod) kill() { p.ip("netns", "del", p.ns) }

func (n *node) ip(args ...string) string {
	n.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		n.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// conf is a network definition.
type conf map[string]any

func (p *pod) conf(d *pci.Device, more conf) conf {
	c := conf{"cniVersion": "1.1.0", "name": "fast", "type": "sriov", "deviceID": d.Address.String(), "logLevel": "debug"}
	maps.Copy(c, more)
	return c
}

// An invocation is one run of the plugin.
type invocation struct {
	verb, id, ns, ifName, args string
	conf                       conf
}

func (p *pod) call(verb string, c conf) invocation {
	return invocation{verb: verb, id: p.id, ns: p.path(), ifName: "net1", conf: c}
}

// command makes the run; out takes the result.
func (i invocation) command(ctx context.Context, out *bytes.Buffer) (*exec.Cmd, error) {
	stdin, err := json.Marshal(i.conf)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, *plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+i.verb, "CNI_CONTAINERID="+i.id, "CNI_NETNS="+i.ns, "CNI_IFNAME="+i.ifName,
		"CNI_ARGS="+i.args, "CNI_PATH="+cniPath())
	cmd.Stdin, cmd.Stdout = bytes.NewReader(stdin), out
	return cmd, nil
}

// run calls the plugin; a CNI error is a *types.Error.
func (i invocation) run(t *testing.T) ([]byte, error) {
	t.Helper()
	var out, log bytes.Buffer
	cmd, err := i.command(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &log
	err = cmd.Run()
	t.Logf("%s %s %s\n%s%s", i.verb, i.id, i.ns, log.Bytes(), out.Bytes())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		var answer types.Error
		if json.Unmarshal(out.Bytes(), &answer) != nil || answer.Msg == "" {
			t.Fatalf("%s: %v without a CNI error on stdout: %q", i.verb, exit, out.Bytes())
		}
		return nil, &answer
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), nil
}

// must is run for what has to succeed.
func (i invocation) must(t *testing.T) []byte {
	t.Helper()
	out, err := i.run(t)
	if err != nil {
		t.Fatalf("%s: %v", i.verb, err)
	}
	return out
}

// wantCode fails unless err is a CNI error with this code that says all of the words.
func wantCode(t *testing.T, err error, code uint, words ...string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want an error with code %d", err, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("error %q does not say %q", e.Error(), w)
		}
	}
}

var ipamDir string

// cniPath is a folder with the IPAM plugin.
func cniPath() string {
	if ipamDir != "" {
		return ipamDir
	}
	dir := "/run/test-cni"
	self, err := os.Executable()
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		if err = os.Symlink(self, filepath.Join(dir, "test-ipam")); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		panic(err)
	}
	ipamDir = dir
	return dir
}

func leaseFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(leases)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// openRecords lists the VFs whose record says that they are somebody's.
func openRecords(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(records + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(`"phase":"free"`)) {
			open = append(open, filepath.Base(f))
		}
	}
	return open
}

func recordPath(d *pci.Device) string { return filepath.Join(records, d.Address.String()+".json") }

// noProcess fails if a process of this name lives on.
func noProcess(t *testing.T, name string) {
	t.Helper()
	_, err := eventually(func() (int, error) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			if err == nil && strings.TrimSpace(string(comm)) == name {
				return 0, fmt.Errorf("process %s %s lives on", e.Name(), name)
			}
		}
		return 0, nil
	})
	if err != nil {
		t.Error(err)
	}
}
