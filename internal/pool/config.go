// Package pool holds the pools' configuration and decides which device belongs to which pool. Both are pure: bytes and
// device descriptions in, pools and reasons out.
package pool

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// A DeviceType is the kind of device that a pool holds.
type DeviceType string

// The kinds of devices.
const (
	NetDevice    DeviceType = "netDevice" // PCI network functions: VFs, and PFs without VFs
	Accelerator  DeviceType = "accelerator"
	AuxNetDevice DeviceType = "auxNetDevice" // subfunctions on the auxiliary bus
)

// A Config is the pools of a node, in the order in which they take devices.
type Config struct {
	Pools []Pool
}

// A Pool is one extended resource and what belongs to it.
type Pool struct {
	Resource        string // prefix and name, such as intel.com/sriov
	Type            DeviceType
	ExcludeTopology bool
	Selectors       []Selector // tried in order
	// AdditionalInfo is what Allocate tells the container about a device: by its address, or "*" for all.
	AdditionalInfo map[string]map[string]string

	// Spread makes preferred allocations use many PFs instead of few.
	Spread bool
	// PFLink makes a VF unhealthy while its PF has no carrier.
	PFLink bool
	// AllowAddressed offers interfaces that carry addresses. It does not open the node's uplink.
	AllowAddressed bool
}

// A Selector says which devices a pool takes: every key that is set must hold, by any of its values.
type Selector struct {
	Vendors, Devices, Drivers []string
	PCIAddresses, ACPIIndexes []string
	PFNames, RootDevices      []Ranged
	LinkTypes                 []string
	DDPProfiles, PKeys        []string
	AuxTypes                  []string
	IsRDMA, NeedVhostNet      bool
	VDPAType                  string // vhost, virtio
}

// A Ranged is a PF, by name or address, and which of its VFs are meant.
type Ranged struct {
	PF     string
	Ranges []Range // empty: all of them
}

// A Range is VF indexes from First to Last, both included.
type Range struct{ First, Last int }

// String is the form that a configuration has.
func (r Ranged) String() string {
	ranges := make([]string, len(r.Ranges))
	for i, x := range r.Ranges {
		ranges[i] = x.String()
	}
	if len(ranges) == 0 {
		return r.PF
	}
	return r.PF + "#" + strings.Join(ranges, ",")
}

func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r Ranged) holds(index int) bool {
	for _, x := range r.Ranges {
		if index >= x.First && index <= x.Last {
			return true
		}
	}
	return len(r.Ranges) == 0
}

// A Fault is one thing that is wrong in a configuration, or only odd.
type Fault struct {
	Line    int    // counted from 1
	Path    string // such as resourceList[2].selectors.pfNames[0]; empty: the whole file
	Message string
}

func (f Fault) String() string {
	if f.Path == "" {
		return fmt.Sprintf("line %d: %s", f.Line, f.Message)
	}
	return fmt.Sprintf("line %d: %s: %s", f.Line, f.Path, f.Message)
}

// Faults are all that is wrong with a configuration, in order of line. It is the error that Parse returns.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

func byLine(a, b Fault) int { return cmp.Compare(a.Line, b.Line) }
