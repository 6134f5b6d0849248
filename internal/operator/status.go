package operator

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A Status is a node's PFs and VFs at one moment.
type Status struct {
	PFs []PF `json:"pfs"`
	// Stray are records of VFs that are no more.
	Stray []Stray `json:"stray,omitempty"`
	// Notes are what could not be found out, and why.
	Notes []string `json:"notes,omitempty"`

	deaf error // why the kubelet does not say what pods have; nil: it does
}

// A PF is a physical function: a NIC's port that can have VFs.
type PF struct {
	Address    string `json:"address"`
	Name       string `json:"name,omitempty"` // its interface
	Vendor     string `json:"vendor"`
	Device     string `json:"device"`
	VendorName string `json:"vendorName,omitempty"`
	DeviceName string `json:"deviceName,omitempty"`
	Driver     string `json:"driver,omitempty"`
	NUMANode   int    `json:"numaNode"` // -1: not known
	Up         bool   `json:"up"`       // it has carrier
	TotalVFs   int    `json:"totalVFs"` // that it can have
	VFs        []VF   `json:"vfs"`
}

// A State says what is going on with a VF.
type State string

// The states.
const (
	Free       State = "free"       // nobody has it
	Allocated  State = "allocated"  // the kubelet gave it to a pod, and no network of that pod has set it
	Attached   State = "attached"   // it is in a pod
	Adding     State = "adding"     // it is on its way into a pod
	Removing   State = "removing"   // it is on its way back, or did not get there
	Left       State = "left"       // its owner is gone, and nobody has put it back yet
	Unreadable State = "unreadable" // its record cannot be read
)

// A VF is a virtual function, beside what it should be.
type VF struct {
	Address   string `json:"address"`
	Index     int    `json:"index"`
	Driver    string `json:"driver,omitempty"`
	NUMANode  int    `json:"numaNode"`
	Interface string `json:"interface,omitempty"` // in the host's network namespace, or in the pod's
	Resource  string `json:"resource,omitempty"`  // the pool that it is in
	Unhealthy string `json:"unhealthy,omitempty"` // why nobody could use it
	State     State  `json:"state"`
	Owner     *Owner `json:"owner,omitempty"`
	// Settings are what the PF enforces; in a captured tree what the attachment wanted.
	Settings    *vf.Settings    `json:"settings,omitempty"`
	Differences []vf.Difference `json:"differences,omitempty"`
	Problems    []string        `json:"problems,omitempty"`

	view     *sriov.View
	holder   *Owner // the pod that the kubelet gave it to, if that is not the one on record
	device   *pci.Device
	pool     *inventory.Device
	captured bool // then nobody knows who is alive
}

// A Stray is a record without a VF.
type Stray struct {
	Address string `json:"address"`
	Owner   *Owner `json:"owner,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// look is one look at a node: what Status is made of.
type look struct {
	n        *Node
	snapshot *pci.Snapshot
	devices  map[string]*inventory.Device
	config   *pool.Config
	pools    map[string]string // resource by device
	kubelet  kubeletView
	pods     map[string]*delegate.Record // by container id
	living   []string                    // the pods of those whose sandbox lives
	device   map[string]*delegate.Record // by device id
	inspect  *sriov.Inspector
	deaf     error // why the kubelet does not say what pods have; nil: it does
	notes    []string
}

// Look reads everything. What cannot be read is among the notes.
func (n *Node) Look(ctx context.Context) (*Status, error) {
	l, err := n.look(ctx)
	if err != nil {
		return nil, err
	}
	defer l.inspect.Close()
	return l.status(), nil
}

func (l *look) status() *Status {
	s := &Status{PFs: []PF{}, deaf: l.deaf}
	for _, d := range l.snapshot.Devices() {
		if d.IsPF() {
			s.PFs = append(s.PFs, l.pf(d))
		}
	}
	s.Stray = l.stray()
	s.Notes = l.notes
	return s
}

func (n *Node) look(ctx context.Context) (*look, error) {
	l := &look{n: n, devices: map[string]*inventory.Device{}, pools: map[string]string{}}
	var err error
	if l.snapshot, err = pci.Scan(n.Root); err != nil {
		return nil, err
	}
	if l.inspect, err = n.Plugin().Inspect(); err != nil {
		return nil, err
	}
	l.readJournals()
	if !n.captured() {
		if l.kubelet, l.deaf = n.askKubelet(ctx); l.deaf == nil {
			l.deaf = l.kubelet.doubt(l.living)
		}
		if l.deaf != nil {
			l.notes = append(l.notes, l.deaf.Error())
		}
	}
	if err := l.assign(); err != nil {
		l.notes = append(l.notes, err.Error())
	}
	return l, nil
}

func (l *look) readJournals() {
	l.pods, l.device = map[string]*delegate.Record{}, map[string]*delegate.Record{}
	all, err := l.n.Runner().List()
	if err != nil {
		l.notes = append(l.notes, err.Error())
	}
	for _, s := range all {
		if s.Err != nil {
			l.notes = append(l.notes, s.Err.Error())
			continue
		}
		l.pods[s.Key] = s.Record
		if pod := podOf(s.Record); pod != "" && s.Alive {
			l.living = append(l.living, pod)
		}
		for _, a := range s.Record.Attachments {
			if a.Device != nil && a.Phase != delegate.Gone {
				l.device[a.Device.ID] = s.Record
				l.pools[a.Device.ID] = a.Device.Resource
			}
		}
	}
}

// assign finds out which pool has which device: as the kubelet says, else as a pod's journal says, else as the
// configuration says.
func (l *look) assign() error {
	maps.Copy(l.pools, l.kubelet.offered)
	held := map[string]string{}
	for id, h := range l.kubelet.held {
		l.pools[id], held[id] = h.resource, h.resource
	}
	links := netlinks.NodeLinks
	if l.n.captured() {
		links = nil
	}
	devices, err := inventory.Once(l.n.Root, links)
	if err != nil {
		return err
	}
	all := make([]*pool.Device, len(devices))
	for i, d := range devices {
		l.devices[d.ID], all[i] = d, &d.Device
	}
	if l.config, err = l.n.pools(); l.config == nil {
		return err
	}
	for i, p := range pool.Assign(l.config, all, held) {
		if _, known := l.pools[all[i].ID]; !known && p >= 0 {
			l.pools[all[i].ID] = l.config.Pools[p].Resource
		}
	}
	return nil
}

func (l *look) pf(d *pci.Device) PF {
	pf := PF{
		Address: d.Address.String(), Vendor: d.Vendor, Device: d.Product, Driver: d.Driver, NUMANode: d.NUMANode,
		TotalVFs: d.TotalVFs, VFs: []VF{},
	}
	if uplink, ok := d.Uplink(); ok {
		pf.Name, pf.Up = uplink.Name, uplink.Up
	}
	if l.n.Names != nil {
		pf.VendorName, pf.DeviceName = l.n.Names(d.Vendor, d.Product)
	}
	for _, a := range d.VFs {
		if v := l.snapshot.Device(a); v != nil {
			pf.VFs = append(pf.VFs, l.vf(v, d))
		}
	}
	return pf
}

func (l *look) vf(d, pf *pci.Device) VF {
	id := d.Address.String()
	view := l.inspect.View(d, pf)
	v := VF{
		Address: id, Index: d.VFIndex, Driver: d.Driver, NUMANode: d.NUMANode, Resource: l.pools[id],
		Settings: view.Live, Differences: view.Differences, Problems: view.Problems,
		view: view, device: d, pool: l.devices[id], captured: l.n.captured(),
	}
	if v.pool != nil {
		v.Unhealthy = v.pool.UnhealthyIn(l.poolOf(v.Resource))
	}
	switch {
	case view.Netdev != nil:
		v.Interface = view.Netdev.Name
	case len(d.Netdevs) > 0:
		v.Interface = d.Netdevs[0].Name
	}
	if view.Open() && v.Settings == nil {
		v.Settings = new(view.Record.Baseline.Settings.With(view.Record.Wanted))
	}
	v.Owner, v.holder = l.owner(id, view)
	v.State = l.state(view, v.Owner)
	v.Problems = append(v.Problems, problems(view)...)
	return v
}

func (l *look) state(view *sriov.View, owner *Owner) State {
	switch {
	case view.Void != "" && view.Record == nil:
		return Unreadable
	case !view.Open() && owner != nil:
		return Allocated
	case !view.Open():
		return Free
	case view.Record.Phase == sriov.Removing:
		return Removing
	case !view.Alive && !l.n.captured():
		return Left
	case view.Record.Phase == sriov.Adding:
		return Adding
	}
	return Attached
}

func problems(view *sriov.View) (all []string) {
	switch {
	case view.Void != "" && view.Record == nil:
		all = append(all, view.Void)
	case view.Void != "":
		all = append(all, "it has a record that does not count: "+view.Void)
	}
	if view.Record != nil && view.Void == "" {
		for _, owed := range view.Record.Owed.Strings() {
			all = append(all, "it is owed: "+owed)
		}
	}
	if view.Open() {
		for _, fault := range view.Record.Faults {
			all = append(all, "it could not be put back: "+fault)
		}
		if view.Record.Salvaged {
			all = append(all, "its record was lost: it is being reset to safe defaults")
		}
	}
	return all
}

// stray finds the records of VFs that are no more.
func (l *look) stray() (all []Stray) {
	plugin := l.n.Plugin()
	keys, err := plugin.Records.Keys()
	if err != nil {
		l.notes = append(l.notes, err.Error())
	}
	for _, key := range keys {
		address, err := pci.ParseAddress(key)
		if err != nil {
			all = append(all, Stray{Address: key, Problem: "the name of this record is no PCI address"})
			continue
		}
		if d := l.snapshot.Device(address); d != nil && d.IsVF() {
			continue
		}
		s := Stray{Address: key}
		if r, err := plugin.ReadRecord(address); err != nil {
			s.Problem = err.Error()
		} else if r.Phase != sriov.Free {
			s.Owner = l.recorded(r)
			s.Owner.Alive = !l.n.captured() && r.Alive()
		}
		all = append(all, s)
	}
	return all
}

// Find is the VF or PF that a person means: by address, with or without its domain, by the PF's name, or by the PF's name
// and the VF's index, such as ens2#3.
func (s *Status) Find(what string) (*PF, *VF, error) {
	name, index, isIndex := strings.Cut(what, "#")
	address := name
	if strings.Count(name, ":") == 1 {
		address = "0000:" + name
	}
	address = strings.ToLower(address)
	for i := range s.PFs {
		pf := &s.PFs[i]
		if isPF := pf.Address == address || pf.Name == name; isPF && !isIndex {
			return pf, nil, nil
		} else if isPF {
			for j := range pf.VFs {
				if fmt.Sprint(pf.VFs[j].Index) == index {
					return pf, &pf.VFs[j], nil
				}
			}
			return nil, nil, fmt.Errorf("%s has no VF %s: it has %d VFs, numbered from 0", name, index, len(pf.VFs))
		}
		for j := range pf.VFs {
			if v := &pf.VFs[j]; !isIndex && (v.Address == address || v.Interface == name && !v.view.InPod) {
				return pf, v, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("there is no PF or VF %q: want a PCI address such as 0000:02:10.0, or a PF and an index such as ens2#0; see vfctl list", what)
}
