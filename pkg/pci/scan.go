package pci

import (
	"errors"
	"slices"
)

// A Snapshot is what a node had at one moment: its network functions and accelerators. It never changes; Refresh makes a
// new one.
type Snapshot struct {
	devices []*Device // by address
}

// Scan reads every network function and accelerator below root ("/" on a node). A function that vanishes while it is read
// is left out.
func Scan(root string) (*Snapshot, error) {
	addresses, err := Addresses(root)
	if err != nil {
		return nil, err
	}
	r := newReader(root)
	defer r.close()
	r.hosted = r.allHosted()
	devices := make([]*Device, 0, len(addresses))
	for _, a := range addresses {
		d, err := r.device(a, isKept)
		if errors.Is(err, ErrNoDevice) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if d != nil {
			devices = append(devices, d)
		}
	}
	return link(devices), nil
}

// isKept says which classes a snapshot has.
func isKept(class uint32) bool { return class>>16 == ClassNetwork || class>>16 == ClassAccelerator }

// link gives the VFs their index by their PF's links. A VF that its PF does not list is being made or removed right now:
// it is left out, and the kernel's event about it brings it in or confirms that it is gone.
func link(devices []*Device) *Snapshot {
	type listed struct{ pf, vf Address } // the two links must agree
	index := map[listed]int{}
	for _, pf := range devices {
		for i, vf := range pf.VFs {
			index[listed{pf.Address, vf}] = i
		}
	}
	kept := devices[:0]
	for _, d := range devices {
		if d.IsVF() {
			i, ok := index[listed{d.PF, d.Address}]
			if !ok {
				continue
			}
			d.VFIndex = i
		}
		kept = append(kept, d)
	}
	return &Snapshot{devices: kept}
}

// Devices are all devices in order of address. Do not change the slice.
func (s *Snapshot) Devices() []*Device { return s.devices }

// Device is the device at a, nil if there is none.
func (s *Snapshot) Device(a Address) *Device {
	i, ok := s.find(a)
	if !ok {
		return nil
	}
	return s.devices[i]
}

func (s *Snapshot) find(a Address) (int, bool) {
	return slices.BinarySearchFunc(s.devices, a, func(d *Device, a Address) int { return d.Address.Compare(a) })
}

// PF is the physical function of a VF; nil if d is none, or its PF is not in the snapshot.
func (s *Snapshot) PF(d *Device) *Device {
	if !d.IsVF() {
		return nil
	}
	return s.Device(d.PF)
}

// Refresh reads the functions at the addresses again and gives a snapshot with them as they are now: added, changed or
// gone. The others are not read; those that did not change are the same *Device in both snapshots.
func (s *Snapshot) Refresh(root string, addresses ...Address) (*Snapshot, error) {
	r := newReader(root)
	defer r.close()
	next := &Snapshot{devices: slices.Clone(s.devices)}
	for _, a := range addresses {
		d, err := r.device(a, isKept)
		if err != nil && !errors.Is(err, ErrNoDevice) {
			return nil, err
		}
		if d != nil && d.IsVF() {
			if d.VFIndex = r.vfIndex(d.PF, a); d.VFIndex < 0 {
				d = nil
			}
		}
		i, found := next.find(a)
		switch {
		case d != nil && found:
			next.devices[i] = d
		case d != nil:
			next.devices = slices.Insert(next.devices, i, d)
		case found:
			next.devices = slices.Delete(next.devices, i, i+1)
		}
	}
	return next, nil
}
