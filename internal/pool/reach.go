package pool

import (
	"fmt"
	"slices"
)

// unreachable warns of pools that can never have a device, because earlier ones take all that they could take, and of
// selectors that take everything. Both work with the peer, too, so they are no faults.
func (p *parser) unreachable(c *Config) {
	for i := range c.Pools {
		pool := &c.Pools[i]
		at := fmt.Sprintf("resourceList[%d]", i)
		for j := range pool.Selectors {
			s := &pool.Selectors[j]
			if s.empty() {
				p.warn(i, at+".selectors", "no key is set: it takes every %s", pool.Type)
			}
			if key := s.undiscovered(); key != "" {
				p.warn(i, at+".selectors", "%s takes nothing: this version does not look for such devices yet", key)
			}
			for k := range c.Pools[:i] {
				if c.Pools[k].coversAll(pool, s) {
					p.warn(i, at+".selectors", "it takes nothing: resourceList[%d] (%s) comes first and takes all of it", k, c.Pools[k].Resource)
				}
			}
		}
	}
}

func (p *parser) warn(pool int, path, format string, args ...any) {
	p.warnings = append(p.warnings, Fault{p.lines[pool], path, fmt.Sprintf(format, args...)})
}

func (s *Selector) empty() bool {
	return s.VDPAType == "" && !s.IsRDMA && len(s.PFNames) == 0 && len(s.RootDevices) == 0 &&
		!slices.ContainsFunc(s.sets(), func(set []string) bool { return len(set) > 0 })
}

// undiscovered is a key whose devices nobody finds yet; empty: there is none.
func (s *Selector) undiscovered() string {
	switch {
	case len(s.AuxTypes) > 0:
		return "auxTypes"
	case len(s.DDPProfiles) > 0:
		return "ddpProfiles"
	case s.VDPAType != "":
		return "vdpaType"
	}
	return ""
}

func (s *Selector) sets() [][]string {
	return [][]string{s.Vendors, s.Devices, s.Drivers, s.PCIAddresses, s.ACPIIndexes, s.LinkTypes, s.DDPProfiles, s.PKeys, s.AuxTypes}
}

// coversAll reports whether the pool takes every device that selector s of a later pool could take.
func (p *Pool) coversAll(later *Pool, s *Selector) bool {
	if p.Type != later.Type || later.AllowAddressed && !p.AllowAddressed {
		return false
	}
	return slices.ContainsFunc(p.Selectors, func(earlier Selector) bool { return earlier.covers(s) })
}

func (s *Selector) covers(narrow *Selector) bool {
	narrowSets := narrow.sets()
	for i, wide := range s.sets() {
		if !superset(wide, narrowSets[i], func(a, b string) bool { return a == b }) {
			return false
		}
	}
	return superset(s.PFNames, narrow.PFNames, Ranged.covers) && superset(s.RootDevices, narrow.RootDevices, Ranged.covers) &&
		(!s.IsRDMA || narrow.IsRDMA) && (s.VDPAType == "" || s.VDPAType == narrow.VDPAType)
}

// superset reports whether whatever narrow lets through wide lets through, too. An empty list lets everything through.
func superset[T any](wide, narrow []T, covers func(wide, narrow T) bool) bool {
	if len(wide) == 0 {
		return true
	}
	return len(narrow) > 0 && !slices.ContainsFunc(narrow, func(n T) bool {
		return !slices.ContainsFunc(wide, func(w T) bool { return covers(w, n) })
	})
}

func (r Ranged) covers(narrow Ranged) bool {
	if r.PF != narrow.PF {
		return false
	}
	if len(r.Ranges) == 0 {
		return true
	}
	return len(narrow.Ranges) > 0 && !slices.ContainsFunc(narrow.Ranges, func(n Range) bool {
		return !slices.ContainsFunc(r.Ranges, func(w Range) bool { return w.First <= n.First && n.Last <= w.Last })
	})
}
