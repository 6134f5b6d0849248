package inventory

import (
	"slices"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// few finds where in believed the functions are that a view of s has to describe, if they are so few that the others need no
// look at all, and nothing is said of others because of them: they are VFs, or as they were. That is what most changes are: a
// VF goes into a pod, or comes back, or gets another driver.
func (v *viewer) few(s *pci.Snapshot) (where []int, ok bool) {
	if v.shown.snapshot == nil || v.parted {
		return nil, false
	}
	was, now := v.shown.snapshot.Devices(), s.Devices()
	if len(was) != len(now) {
		return nil, false
	}
	for k := range now {
		if now[k] == was[k] {
			continue
		}
		if len(where) == fewAddresses || now[k].Address != was[k].Address || !isPlainVF(now[k]) || !isPlainVF(was[k]) {
			return nil, false
		}
		where = append(where, k)
	}
	for _, d := range v.touchedFunctions(s) {
		if d == nil { // it has just gone
			return nil, false
		}
		k, found := slices.BinarySearchFunc(now, d, func(a, b *pci.Device) int { return a.Address.Compare(b.Address) })
		if !found || !isPlainVF(now[k]) {
			return nil, false
		}
		where = append(where, k)
	}
	where = append(where, v.restless...)
	slices.Sort(where)
	return slices.Compact(where), true
}

// isPlainVF reports whether a function is a VF that is no part of another's description.
func isPlainVF(d *pci.Device) bool { return d.IsVF() && len(d.Subfunctions) == 0 }

// viewFew is view where few functions have to be described.
func (v *viewer) viewFew(s *pci.Snapshot, where []int, links map[int]netlinks.NodeLink) (devices []*Device, odd []pci.Address) {
	devices = v.shown.devices
	few, cloned := make(map[int]seen, len(where)), false
	for _, k := range where {
		e := v.believed[k]
		if d := s.Devices()[k]; d != e.function {
			e.was, e.function = e.function, d
		}
		before := e.device
		if v.describe(&e, s, links) {
			odd = append(odd, e.function.Address)
		}
		few[k] = e
		if e.device == before {
			continue
		}
		if !cloned {
			devices, cloned = slices.Clone(devices), true // somebody has the old ones
		}
		devices[k] = e.device // no function has subfunctions, so a device is where its function is
	}
	v.dropped = v.dropped || len(odd) > 0
	v.next = viewed{snapshot: s, devices: devices, few: few}
	return devices, odd
}
