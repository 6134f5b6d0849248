package network

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// needsDevice are the plugins that do nothing without a device of the pod's own.
var needsDevice = []string{"sriov", "ib-sriov", "accelerated-bridge"}

// resourceKey is where a definition names its resource.
const resourceKey = "metadata.annotations[" + ResourceAnnotation + "]"

// stock is what is left of the pod's devices while networks take theirs.
type stock struct {
	had  map[string][]string // by resource, sorted: podresources answers in another order each time
	left map[string][]string
}

func newStock(devices map[string][]string) *stock {
	s := &stock{had: map[string][]string{}, left: map[string][]string{}}
	for resource, ids := range devices {
		sorted := slices.Compact(slices.Sorted(slices.Values(ids))) // a device on two NUMA nodes is listed twice
		if len(sorted) > 0 {
			s.had[resource], s.left[resource] = sorted, slices.Clone(sorted)
		}
	}
	return s
}

func (s *stock) take(resource, id string) bool {
	i := slices.Index(s.left[resource], id)
	if i < 0 {
		return false
	}
	s.left[resource] = slices.Delete(s.left[resource], i, i+1)
	return true
}

// owner finds the resource that id belongs to.
func (s *stock) owner(id string) string {
	for _, resource := range slices.Sorted(maps.Keys(s.had)) {
		if slices.Contains(s.had[resource], id) {
			return resource
		}
	}
	return ""
}

// String lists the pod's devices by resource, for an error.
func (s *stock) String() string {
	if len(s.had) == 0 {
		return "none"
	}
	var parts []string
	for _, resource := range slices.Sorted(maps.Keys(s.had)) {
		parts = append(parts, fmt.Sprintf("%s (%s)", resource, strings.Join(s.had[resource], ", ")))
	}
	text := strings.Join(parts, ", ")
	if len(text) > 400 {
		text = text[:400] + "…"
	}
	return text
}

// assignDevices gives each network that takes a device one of the pod's: first those that name theirs, then the others in
// order, from the sorted ids. Nil where a network takes none, or has no definition; bad says of the others why they get none.
func assignDevices(all []Selection, defs []*Definition, devices map[string][]string) (ids []*Device, bad []*Error) {
	s := newStock(devices)
	ids, bad = make([]*Device, len(all)), make([]*Error, len(all))
	for i, d := range defs {
		if d == nil {
			continue
		}
		if asked, key := askedDevice(all[i], d); asked != "" {
			ids[i], bad[i] = s.takeAsked(d, asked, key)
			bad[i] = bad[i].of(Pod{}, d.Network())
		}
	}
	for i, d := range defs {
		if d == nil || ids[i] != nil || bad[i] != nil {
			continue
		}
		switch {
		case d.Resource == "":
			bad[i] = checkNeedsNone(d, s).of(Pod{}, d.Network())
		case len(s.left[d.Resource]) == 0:
			bad[i] = missingDevice(d, defs, s).of(Pod{}, d.Network())
		default:
			ids[i] = &Device{Resource: d.Resource, ID: s.left[d.Resource][0]}
			s.take(d.Resource, ids[i].ID)
		}
	}
	return ids, bad
}

// askedDevice is the device that the pod, or else the definition's author, names. A definition with a resource gets the
// pod's devices whatever its author wrote, as with Multus.
func askedDevice(sel Selection, d *Definition) (id, key string) {
	if sel.DeviceID != "" {
		return sel.DeviceID, joinKey(sel.Key, "deviceID")
	}
	if d.Resource != "" {
		return "", ""
	}
	for _, p := range d.plugins {
		if p.device != "" {
			return p.device, joinKey(d.key, joinKey(p.key, p.deviceKey))
		}
	}
	return "", ""
}

func (s *stock) takeAsked(d *Definition, id, key string) (*Device, *Error) {
	owner := s.owner(id)
	resource := cmp.Or(d.Resource, owner)
	switch {
	case owner == "":
		return nil, problem(ForeignDevice, "remove it, and let the pod request the resource in its limits: the device is then chosen for it",
			"the device %s is not the pod's; the pod's devices: %v", quote(id), s).at(key)
	case !slices.Contains(s.had[resource], id):
		return nil, problem(ForeignDevice, "remove it, and let the pod request the definition's resource in its limits: the device is then chosen for it",
			"the device %s is one of %s, and the definition takes one of %s", quote(id), owner, resource).at(key)
	case !s.take(resource, id):
		return nil, problem(DeviceTaken, "name each device once", "another network of this pod has the device %s already", quote(id)).at(key)
	}
	return &Device{Resource: resource, ID: id}, nil
}

func checkNeedsNone(d *Definition, s *stock) *Error {
	for _, p := range d.plugins {
		if slices.Contains(needsDevice, p.typ) {
			resource := s.unused()
			if resource == "" {
				resource = "<resource> (such as intel.com/sriov)"
			}
			return problem(NoResource, fmt.Sprintf("add the annotation %s: %s to the definition %s, and request that resource in the pod's limits",
				ResourceAnnotation, resource, d.Network()),
				"the plugin %s needs a device, and the definition names no resource to take it from; the pod's devices: %v", p.typ, s).at(resourceKey)
		}
	}
	return nil
}

// unused finds a resource of which the pod has a device left; "" if there is none.
func (s *stock) unused() string {
	for _, resource := range slices.Sorted(maps.Keys(s.left)) {
		if len(s.left[resource]) > 0 {
			return resource
		}
	}
	return ""
}

func missingDevice(d *Definition, defs []*Definition, s *stock) *Error {
	wanted := 0
	for _, other := range defs {
		if other != nil && other.Resource == d.Resource {
			wanted++
		}
	}
	remedy := fmt.Sprintf("add %s: %q to the resources.limits of one of its containers (an init container's devices do not count)",
		d.Resource, strconv.Itoa(wanted))
	if other := s.unused(); other != "" {
		remedy = fmt.Sprintf("%s, or, if the network is to take %s, write that into the definition's annotation", remedy, other)
	}
	return problem(MissingDevice, remedy, "the pod's networks need %d of the resource %s, the pod has %d; the pod's devices: %v",
		wanted, d.Resource, len(s.had[d.Resource]), s).at(resourceKey)
}

// NeedsDevices reports whether Plan needs to know the pod's devices: some network takes one, or names one.
func (w Wants) NeedsDevices(definitions map[Reference]*Definition) bool {
	return slices.ContainsFunc(w.all(), func(s Selection) bool {
		d := definitions[s.reference()]
		if d == nil {
			return false
		}
		id, _ := askedDevice(s, d)
		return id != "" || d.Resource != "" || checkNeedsNone(d, &stock{}) != nil
	})
}
