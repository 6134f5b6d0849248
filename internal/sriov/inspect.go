package sriov

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A View is one VF as it is, beside what its record says it should be.
type View struct {
	Record *Record // nil: there is none, or it cannot be read
	// Void says why the record does not count: it cannot be read, or is of another boot or VF. Empty: it counts.
	Void string
	// Alive says that the owner's network namespace is there. It means nothing while there is no owner.
	Alive bool
	// Live is the VF's entry on its PF; nil: it cannot be read here.
	Live *vf.Settings
	// Netdev is the VF's interface; nil: it has none, or it is nowhere to be found. InPod says that it is in its owner's
	// namespace.
	Netdev *vf.Netdev
	InPod  bool
	// Differences are from what the attachment has set, for a VF that is attached; for every other one from its baseline.
	Differences []vf.Difference
	// Problems are what kept us from looking.
	Problems []string
}

// Open reports whether the record is open: something of the VF may be left to undo.
func (v *View) Open() bool { return v.Record != nil && v.Void == "" && v.Record.Phase != Free }

// An Inspector looks at VFs, and changes nothing. It takes no locks: what is seen while a verb works on a VF is half done.
type Inspector struct {
	p    *Plugin
	boot string
	ns   *netns.Netns // nil: this is no node, but a tree that was captured on one
	host *vf.Conn
	pfs  map[pci.Address]pfView
}

// A pfView is what a PF said of its VFs.
type pfView struct {
	vfs map[int]vf.Settings
	err error
}

// Inspect makes an Inspector; Close it. Below another root than "/" there are only records.
func (p *Plugin) Inspect() (*Inspector, error) {
	i := &Inspector{p: p, pfs: map[pci.Address]pfView{}}
	if filepath.Clean(p.Root) != "/" {
		i.boot, _ = bootID(p.Root) // "" if it was not captured: then every record counts
		return i, nil
	}
	var err error
	if i.boot, err = bootID(p.Root); err != nil {
		return nil, err
	}
	if i.ns, err = netns.Current(); err != nil {
		return nil, err
	}
	if i.host, err = vf.NewConn(i.ns); err != nil {
		return nil, errors.Join(err, i.ns.Close())
	}
	return i, nil
}

// Close ends the Inspector.
func (i *Inspector) Close() error {
	if i.ns == nil {
		return nil
	}
	return i.ns.Close()
}

// View looks at a VF. pf is its PF, nil if that is gone.
func (i *Inspector) View(d, pf *pci.Device) *View {
	v := &View{}
	i.readRecord(v, d, pf)
	if i.host == nil || pf == nil {
		return v
	}
	i.readEntry(v, d, pf)
	i.readNetdev(v, d)
	i.compare(v)
	return v
}

func (i *Inspector) readRecord(v *View, d, pf *pci.Device) {
	r, err := readRecord(i.p.Records, d.Address.String())
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return
	case err != nil:
		v.Void = err.Error()
		return
	}
	v.Record = r
	now := Identity{PF: d.PF, Index: d.VFIndex, Driver: d.Driver, NumVFs: r.Identity.NumVFs, Node: r.Identity.Node}
	if pf != nil {
		now.NumVFs = len(pf.VFs)
	}
	var st unix.Stat_t
	if i.host != nil && unix.Stat(filepath.Join(i.p.Root, "sys/bus/pci/devices", d.Address.String()), &st) == nil {
		now.Node = st.Ino
	}
	switch {
	case i.boot != "" && r.Boot != i.boot:
		v.Void = "it is from before the last boot"
	case !r.Identity.isOf(now):
		v.Void = fmt.Sprintf("it is of another VF that had this address: VF %d of %s when that had %d VFs", r.Identity.Index, r.Identity.PF, r.Identity.NumVFs)
	case r.Phase == Free && r.Identity.Driver != d.Driver:
		v.Void = fmt.Sprintf("it is of a time when the driver was %s", r.Identity.Driver)
	}
	v.Alive = i.host != nil && alive(r.Netns)
}

func (i *Inspector) readEntry(v *View, d, pf *pci.Device) {
	seen, ok := i.pfs[pf.Address]
	if !ok {
		seen = i.readPF(pf)
		i.pfs[pf.Address] = seen
	}
	live, ok := seen.vfs[d.VFIndex]
	switch {
	case seen.err != nil:
		v.Problems = append(v.Problems, seen.err.Error())
	case !ok:
		v.Problems = append(v.Problems, "the PF does not list it")
	default:
		v.Live = &live
	}
}

func (i *Inspector) readPF(pf *pci.Device) pfView {
	uplink, ok := pf.Uplink()
	if !ok {
		return pfView{err: fmt.Errorf("PF %s has no interface here (driver %q)", pf.Address, pf.Driver)}
	}
	vfs, err := i.host.ReadAll(vf.PF{Address: pf.Address.String(), Index: uplink.Index})
	return pfView{vfs, err}
}

// readNetdev looks at home and then in the owner's namespace.
func (i *Inspector) readNetdev(v *View, d *pci.Device) {
	for _, n := range d.Netdevs {
		dev, err := i.host.Get(n.Index)
		if err == nil && (dev.Address == "" || dev.Address == d.Address.String()) {
			v.Netdev = &dev
			return
		}
	}
	if !v.Open() || !v.Alive {
		return
	}
	ns, err := netns.Open(v.Record.Netns.Path)
	if err != nil {
		return // it went this moment
	}
	defer ns.Close()
	pod, err := vf.NewConn(ns)
	if err == nil {
		var dev vf.Netdev
		if dev, err = pod.Find(d.Address.String()); err == nil {
			v.Netdev, v.InPod = &dev, true
			return
		}
	}
	if !errors.Is(err, vf.ErrNoDevice) {
		v.Problems = append(v.Problems, err.Error())
	}
}

func (i *Inspector) compare(v *View) {
	r := v.Record
	if r == nil || v.Void != "" || r.Phase == Adding && v.Alive { // it is being changed right now
		return
	}
	if r.Phase == Attached {
		i.compareAttached(v)
		return
	}
	if v.Live != nil {
		v.Differences = append(v.Differences, v.Live.Differences(r.Baseline.Settings)...)
	}
	base := r.Baseline.Netdev
	switch {
	case base == nil || r.Salvaged:
	case v.Netdev == nil || v.InPod:
		v.Differences = append(v.Differences, vf.Difference{Name: "interface", Want: base.Name + " on the host", Have: place(v)})
	default:
		v.Differences = append(v.Differences, v.Netdev.Differences(*base)...)
		v.Differences = append(v.Differences, tuningDifferences(v.Netdev.Name, r.Baseline.Tuning)...)
	}
}

func (i *Inspector) compareAttached(v *View) {
	r := v.Record
	want := r.Baseline.Settings.With(r.Wanted)
	if r.Wanted.MAC == nil {
		want.MAC = nil // whatever the VF has, it has chosen
	}
	if v.Live != nil {
		v.Differences = append(v.Differences, v.Live.Differences(want)...)
	}
	if r.Baseline.Netdev == nil || !v.Alive {
		return
	}
	if v.Netdev == nil || !v.InPod {
		v.Differences = append(v.Differences, vf.Difference{Name: "interface", Want: r.Owner.IfName + " in the pod", Have: place(v)})
		return
	}
	// What else a pod does with its interface is its own business.
	should := *v.Netdev
	should.Name = r.Owner.IfName
	if r.Wanted.MAC != nil {
		should.MAC = *r.Wanted.MAC
	}
	if r.Invocation != nil {
		if cfg, err := Parse(r.Invocation.Config, r.Invocation.Args); err == nil && cfg.MTU != 0 {
			should.MTU = cfg.MTU
		}
	}
	v.Differences = append(v.Differences, v.Netdev.Differences(should)...)
}

func place(v *View) string {
	switch {
	case v.Netdev == nil:
		return "nowhere to be found"
	case v.InPod:
		return v.Netdev.Name + " in the pod"
	}
	return v.Netdev.Name + " on the host"
}

func tuningDifferences(name string, want vf.Tuning) []vf.Difference {
	now, err := vf.ReadTuning(name)
	if err != nil {
		return nil // it went this moment
	}
	var all []vf.Difference
	for _, x := range []struct {
		name       string
		want, have []uint32
	}{
		{"offloads", want.Features, now.Features}, {"rings", want.Rings, now.Rings}, {"channels", want.Channels, now.Channels},
	} {
		if x.want != nil && !slices.Equal(x.want, x.have) {
			all = append(all, vf.Difference{Name: x.name, Want: fmt.Sprintf("%#x", x.want), Have: fmt.Sprintf("%#x", x.have)})
		}
	}
	return all
}
