// Package sriov carries out the CNI verbs of the plugin that is called sriov: it puts a VF into a pod and takes it back.
//
// One rule shapes it: a VF's record is on disk before the VF is changed, and stays open until the VF was seen to be as
// before. So whatever is killed when, a DEL, a GC or the next ADD for the VF finds what there is to undo. Every verb holds
// the VF's lock, and only the owner in the record has its VF touched.
package sriov

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A Plugin is one call of the plugin. New sets it up for a node; tests change its fields.
type Plugin struct {
	Root    string        // below which sys and proc are
	Records journal.Store // one record per VF
	Log     *slog.Logger
	Out     io.Writer // takes the result, and nothing else
	// Theirs is where sriov-cni saved what it attached before the node was ours; empty: it never ran here. Path is CNI_PATH,
	// where the IPAM plugins of those are.
	Theirs takeover.SRIOV
	Path   string

	// Whoever calls us gives a minute for all, so the waits of one call that meets with everything, and those for drivers, stay
	// within it. LockWait is the shortest: a DEL that does not get the lock calls off an ADD that hangs, in its IPAM plugin most
	// likely, and has the rest of the minute for its own work when it is asked again.
	LockWait   time.Duration // how long to wait for another verb for the same VF
	ReturnWait time.Duration // how long a VF may take to come back from a netns that has gone
	RebindWait time.Duration // how long a driver may take to make an interface; igbvf takes 0.1 s
	IPAMWait   time.Duration // how long an IPAM plugin may take

	givesUp bool // addresses that cannot be released: an operator said so
}

// New is a Plugin for the node that it runs on.
func New(records string, log *slog.Logger) *Plugin {
	return &Plugin{
		Root: "/", Records: DefaultRecords(records), Log: log, Out: os.Stdout,
		Theirs: takeover.SRIOVDir, Path: os.Getenv("CNI_PATH"),
		LockWait: 10 * time.Second, ReturnWait: 10 * time.Second, RebindWait: 5 * time.Second, IPAMWait: 20 * time.Second,
	}
}

// A call is what the runtime asks of one verb.
type call struct {
	*cni.CmdArgs
	cfg *Config
	log *slog.Logger
}

func (p *Plugin) call(args *cni.CmdArgs) (*call, error) {
	cfg, err := Parse(args.StdinData, args.Args)
	if err != nil {
		return nil, err
	}
	return p.callWith(args, cfg), nil
}

func (p *Plugin) callWith(args *cni.CmdArgs, cfg *Config) *call {
	log := p.Log.With("container", args.ContainerID, "ifname", args.IfName, "network", cfg.Network)
	if cfg.NeedDevice() == nil {
		log = log.With("vf", cfg.Device.String())
	}
	if cfg.Pod != "" {
		log = log.With("pod", cfg.Pod)
	}
	return &call{CmdArgs: args, cfg: cfg, log: log}
}

func (c *call) owner() Owner {
	return Owner{ContainerID: c.ContainerID, IfName: c.IfName, Network: c.cfg.Network}
}

// owns reports whether the record is of this attachment, and open.
func (c *call) owns(r *Record) bool {
	return r.Phase != Free && r.Owner.is(c.ContainerID, c.IfName)
}

func (c *call) invocation() *Invocation {
	return &Invocation{Config: c.StdinData, Args: c.Args, Path: c.Path}
}

// A device is the VF that a verb works on, under its lock, with a connection to the host's namespace.
type device struct {
	p        *Plugin
	log      *slog.Logger
	vf       *pci.Device
	pf       vf.PF
	pfName   string
	pfDriver string
	id       Identity
	boot     string
	lock     *journal.Lock
	ns       *netns.Netns
	host     *vf.Conn
	dev      vf.Netdev // its interface, as newRecord found it in the host's namespace
	seen     bool      // newRecord has just read the PF's entry for the baseline
	owed     Owed      // of its earlier owners
}

// open locks the VF and reads what it is. Errors are coded.
func (p *Plugin) open(ctx context.Context, address pci.Address, log *slog.Logger) (_ *device, err error) {
	d := &device{p: p, log: log}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	// What is no VF gets no lock.
	if _, statErr := os.Lstat(filepath.Join(p.Root, "sys/bus/pci/devices", address.String(), "physfn")); statErr != nil {
		if err = d.read(address); err != nil {
			return nil, err
		}
	}
	if d.boot, err = bootID(p.Root); err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	wait, cancel := context.WithTimeout(ctx, p.LockWait)
	defer cancel()
	if d.lock, err = p.Records.Lock(wait, address.String()); err != nil {
		if errors.Is(err, journal.ErrLocked) {
			return nil, coded(types.ErrTryAgainLater, fmt.Errorf("another call for VF %s is still running: %w", address, err))
		}
		return nil, coded(types.ErrIOFailure, err)
	}
	// Not before: who held the lock may have bound its driver anew.
	if err = d.read(address); err != nil {
		return nil, err
	}
	if err = d.findPF(); err != nil {
		// The VF is there, so this is a PF that is being reset, or whose interface is renamed right now.
		return nil, coded(types.ErrTryAgainLater, err)
	}
	if d.ns, err = netns.Current(); err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	if d.host, err = vf.NewConn(d.ns); err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	return d, nil
}

func (d *device) read(address pci.Address) (err error) {
	if d.vf, err = pci.Read(d.p.Root, address); err != nil {
		return coded(types.ErrInvalidNetworkConfig, fmt.Errorf("find VF %s: %w", address, err))
	}
	if !d.vf.IsVF() {
		return coded(types.ErrInvalidNetworkConfig, fmt.Errorf("%s is not a VF: it has no physfn", address))
	}
	return nil
}

// findPF finds the interface of the PF that the VF is set through.
func (d *device) findPF() error {
	pf, err := pci.Read(d.p.Root, d.vf.PF)
	if err != nil {
		return fmt.Errorf("find the PF of VF %s: %w", d.vf.Address, err)
	}
	uplink, ok := pf.Uplink()
	if !ok {
		return fmt.Errorf("find the PF of VF %s: %s has no interface in the host's network namespace (driver %q)", d.vf.Address, pf.Address, pf.Driver)
	}
	d.pf, d.pfName, d.pfDriver = vf.PF{Address: pf.Address.String(), Index: uplink.Index}, uplink.Name, pf.Driver
	d.id = Identity{PF: pf.Address, Index: d.vf.VFIndex, Driver: d.vf.Driver, NumVFs: len(pf.VFs)}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.p.Root, "sys/bus/pci/devices", d.key()), &st); err != nil {
		return fmt.Errorf("find VF %s: %w", d.vf.Address, err)
	}
	d.id.Node = st.Ino
	return nil
}

func (d *device) close() {
	if d.ns != nil {
		_ = d.ns.Close()
	}
	if d.lock != nil {
		_ = d.lock.Unlock()
	}
}

func (d *device) key() string { return d.vf.Address.String() }

func (d *device) write(r *Record) error {
	if err := d.p.Records.Write(d.key(), r); err != nil {
		return coded(types.ErrIOFailure, fmt.Errorf("record VF %s: %w", d.key(), err))
	}
	return nil
}

// atHome gives the VF's interface if it is in the host's namespace, which is the only one that sysfs shows here.
func (d *device) atHome() (vf.Netdev, bool) {
	dir := filepath.Join(d.p.Root, "sys/bus/pci/devices", d.key(), "net")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return vf.Netdev{}, false
	}
	b, err := os.ReadFile(filepath.Join(dir, entries[0].Name(), "ifindex"))
	if err != nil {
		return vf.Netdev{}, false // renamed or moved meanwhile
	}
	index, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return vf.Netdev{}, false
	}
	dev, err := d.host.Get(index)
	if err != nil || (dev.Address != "" && dev.Address != d.key()) {
		return vf.Netdev{}, false
	}
	return dev, true
}

// hasNetdev reports whether the VF's driver makes an interface: without one (vfio-pci, uio, none, vDPA) only the PF's side
// is set. A VF whose interface is away looks the same in sysfs, but its driver is no such driver.
func (d *device) hasNetdev() bool {
	switch d.vf.Driver {
	case "", "uio_pci_generic", "igb_uio", "pci-stub":
		return false
	}
	if strings.HasSuffix(strings.ReplaceAll(d.vf.Driver, "-", "_"), "vfio_pci") {
		return false
	}
	if d.vf.VDPA != nil {
		return false
	}
	// vfio-pci's variants have a vfio-dev folder, whatever they are called.
	_, err := os.Lstat(filepath.Join(d.p.Root, "sys/bus/pci/devices", d.key(), "vfio-dev"))
	return err != nil
}

// pfMTU is the largest MTU that the VF may have.
func (d *device) pfMTU() (int, error) {
	b, err := os.ReadFile(filepath.Join(d.p.Root, "sys/bus/pci/devices", d.pf.Address, "net", d.pfName, "mtu"))
	if err != nil {
		return 0, fmt.Errorf("read the MTU of PF %s: %w", d.pfName, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// coded gives err a CNI error code, unless it has one.
func coded(code uint, err error) error {
	if err == nil || codeOf(err, 0) != 0 {
		return err
	}
	return &codedError{code, err}
}

// A codedError keeps the cause that a types.Error would forget.
type codedError struct {
	code uint
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// codeOf is the first code in err's tree.
func codeOf(err error, otherwise uint) uint {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here, in order
	case *codedError:
		return e.code
	case *types.Error:
		if e.Code != 0 {
			return e.Code
		}
	case interface{ Unwrap() error }:
		return codeOf(e.Unwrap(), otherwise)
	case interface{ Unwrap() []error }:
		for _, each := range e.Unwrap() {
			if code := codeOf(each, 0); code != 0 {
				return code
			}
		}
	}
	return otherwise
}

// answer is what the runtime is told: all of err under its first code.
func answer(err error) error {
	var e *types.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e) && e.Error() == err.Error() && e.Code == codeOf(err, 0):
		return e // nothing was added: keep the details apart
	}
	return types.NewError(codeOf(err, types.ErrInternal), oneLine(err), "")
}
