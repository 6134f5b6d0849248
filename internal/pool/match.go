package pool

import (
	"slices"
	"strings"
)

// A Device is what selectors ask about a device. Whoever discovers devices fills it in.
type Device struct {
	ID       string // a PCI address, or an auxiliary device's name
	Type     DeviceType
	Vendor   string
	Product  string
	Driver   string // an auxiliary device's: its parent's
	ACPI     string
	PF       string   // the PF's address; empty unless the device is a VF or an auxiliary device
	PFNames  []string // the PF's interface: its name and its alternative names
	Index    int      // of a VF on its PF, of a subfunction: its number; -1: neither
	NUMANode int      // -1: not known

	LinkType   string // ether, infiniband; empty: not known
	DDPProfile string
	PKey       string
	VDPAType   string
	AuxType    string
	RDMA       bool

	// Reserved says why the device must not be offered by any pool; empty: it may be.
	Reserved string
	// Addressed says which address its interface has; empty: none. Only a pool that allows it offers such a device.
	Addressed string
}

// AsksForDDP reports whether any pool selects by DDP profile: only then need devices have theirs.
func (c *Config) AsksForDDP() bool {
	return slices.ContainsFunc(c.Pools, func(p Pool) bool {
		return slices.ContainsFunc(p.Selectors, func(s Selector) bool { return len(s.DDPProfiles) > 0 })
	})
}

// Match reports whether the selector takes the device: every key that is set holds, by any of its values.
func Match(s *Selector, d *Device) bool { return mismatch(s, d) == "" }

// mismatch is the first key that does not hold; empty: all of them do.
func mismatch(s *Selector, d *Device) string {
	switch {
	case !anyOf(s.Vendors, d.Vendor):
		return "vendors"
	case !anyOf(s.Devices, d.Product):
		return "devices"
	case !anyOf(s.Drivers, d.Driver):
		return "drivers"
	case !anyOf(s.PCIAddresses, d.ID):
		return "pciAddresses"
	case !anyOf(s.ACPIIndexes, d.ACPI):
		return "acpiIndexes"
	case !inRange(s.PFNames, d, func(name string) bool { return slices.Contains(d.PFNames, name) }):
		return "pfNames"
	case !inRange(s.RootDevices, d, func(address string) bool { return address == d.PF }):
		return "rootDevices"
	case !anyOf(s.LinkTypes, d.LinkType):
		return "linkTypes"
	case !anyOf(s.DDPProfiles, d.DDPProfile):
		return "ddpProfiles"
	case !anyOf(s.PKeys, d.PKey):
		return "pKeys"
	case !anyOf(s.AuxTypes, d.AuxType):
		return "auxTypes"
	case s.IsRDMA && !d.RDMA:
		return "isRdma"
	case s.VDPAType != "" && s.VDPAType != d.VDPAType:
		return "vdpaType"
	}
	return ""
}

func anyOf(wanted []string, value string) bool {
	return len(wanted) == 0 || slices.Contains(wanted, value)
}

// inRange holds if any entry names the device's PF and, where it has ranges, the device's index: two entries for one PF
// add up.
func inRange(wanted []Ranged, d *Device, isPF func(string) bool) bool {
	return len(wanted) == 0 || slices.ContainsFunc(wanted, func(r Ranged) bool { return isPF(r.PF) && r.holds(d.Index) })
}

// whyNot explains a mismatch to a person, in words that are the same for devices that differ in nothing else: 64 VFs are
// one line then.
func whyNot(s *Selector, d *Device) string {
	key := mismatch(s, d)
	has := ""
	switch key {
	case "vendors":
		has = d.Vendor
	case "devices":
		has = d.Product
	case "drivers":
		has = d.Driver
	case "pciAddresses":
		return "pciAddresses: its own is not among them"
	case "acpiIndexes":
		has = d.ACPI
	case "pfNames":
		return outside(key, s.PFNames, strings.Join(d.PFNames, " or "), func(name string) bool { return slices.Contains(d.PFNames, name) })
	case "rootDevices":
		return outside(key, s.RootDevices, d.PF, func(address string) bool { return address == d.PF })
	case "linkTypes":
		has = d.LinkType
	case "ddpProfiles":
		has = d.DDPProfile
	case "pKeys":
		has = d.PKey
	case "auxTypes":
		has = d.AuxType
	case "vdpaType":
		has = d.VDPAType
	case "isRdma":
		return "isRdma: it has no RDMA device"
	}
	return key + ": it has " + orNone(has)
}

// outside says whether it is the PF that is another, or the index on it.
func outside(key string, wanted []Ranged, has string, isPF func(string) bool) string {
	var near []string
	for _, r := range wanted {
		if isPF(r.PF) {
			near = append(near, r.String())
		}
	}
	if len(near) > 0 {
		return key + ": its index is not in " + strings.Join(near, " or ")
	}
	return key + ": it has " + orNone(has)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// refusal says why the pool does not take the device; empty: it does.
func (p *Pool) refusal(d *Device) string {
	if p.takes(d) {
		return ""
	}
	switch {
	case d.Type != p.Type:
		return "deviceType: it is of type " + string(d.Type)
	case d.Reserved != "":
		return d.Reserved
	case d.Driver == "":
		return "no driver is bound to it"
	case !slices.ContainsFunc(p.Selectors, func(s Selector) bool { return Match(&s, d) }):
		var reasons []string
		for i := range p.Selectors {
			if why := whyNot(&p.Selectors[i], d); !slices.Contains(reasons, why) {
				reasons = append(reasons, why)
			}
		}
		return strings.Join(reasons, "; ")
	default:
		return d.Addressed + "; set allowAddressed to offer it all the same"
	}
}

func (p *Pool) takes(d *Device) bool {
	return p.Selector(d) != nil && d.Reserved == "" && d.Driver != "" && (d.Addressed == "" || p.AllowAddressed)
}

// Selector is the first selector of the pool that the device matches; nil: none does.
func (p *Pool) Selector(d *Device) *Selector {
	if d.Type != p.Type {
		return nil
	}
	for i := range p.Selectors {
		if Match(&p.Selectors[i], d) {
			return &p.Selectors[i]
		}
	}
	return nil
}
