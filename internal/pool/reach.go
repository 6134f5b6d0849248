package pool

import (
	"fmt"
	"slices"
	"strings"
)

// maxWork bounds the comparisons of values that unreachable makes: its warnings are no more than a service.
const maxWork = 4_000_000

// unreachable warns of selectors that can never have a device, because earlier ones take all that they could take, of
// selectors that share some VFs with an earlier pool, and of those that take everything. All of it works with the peer,
// too, so it is no fault. Pools with a fault are passed over: what they would take is not known.
func (p *parser) unreachable(c *Config) {
	var earlier []claim
	values, work := 0, 0
	for i := range c.Pools {
		pool := &c.Pools[i]
		for j, at := range p.selectorsAt[i] {
			s := claim{pool, &pool.Selectors[j], i, at}
			if s.selector.empty() {
				p.warn(s.at, "no key is set: it takes every %s", pool.Type)
			}
			atoms := s.selector.atoms()
			if work += (len(atoms) + s.selector.size()) * values; work > maxWork {
				continue
			}
			if takers := s.coveredBy(earlier, atoms); len(takers) > 0 {
				p.warn(s.at, "it takes nothing: %s", first(takers, i))
			} else {
				p.warnShared(s, earlier)
			}
			earlier = append(earlier, s)
			values += s.selector.size()
		}
	}
	if work > maxWork {
		p.warn(place{1, ""}, "it has too many values to look for selectors that never take anything")
	}
}

// A claim is a selector of a pool, and where it is.
type claim struct {
	pool     *Pool
	selector *Selector
	index    int // of the pool
	at       place
}

// first says that claims come first and take everything, in the words of the reader's file.
func first(takers []claim, own int) string {
	var names []string
	for _, t := range takers {
		name := fmt.Sprintf("resourceList[%d] (%s)", t.index, t.pool.Resource)
		if t.index == own {
			name = t.at.path[strings.LastIndex(t.at.path, ".")+1:] + " of the same pool"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 1 {
		return names[0] + " comes first and takes all of it"
	}
	return strings.Join(names, " and ") + " come first and take all of it"
}

// covers reports whether the claim takes every device that selector s of the pool later could take.
func (c claim) covers(later *Pool, s *Selector) bool {
	if c.pool.Type != later.Type || later.AllowAddressed && !c.pool.AllowAddressed {
		return false
	}
	return c.selector.covers(s)
}

// coveredBy are the earlier claims that leave nothing to c: one of them, or several of which each takes some of c's atoms;
// none if something is left.
func (c claim) coveredBy(earlier []claim, atoms []*Selector) (takers []claim) {
	for _, e := range earlier {
		if e.covers(c.pool, c.selector) {
			return []claim{e}
		}
	}
	for _, a := range atoms {
		i := slices.IndexFunc(earlier, func(e claim) bool { return e.covers(c.pool, a) })
		if i < 0 {
			return nil
		}
		if !slices.ContainsFunc(takers, func(t claim) bool { return t.selector == earlier[i].selector }) {
			takers = append(takers, earlier[i])
		}
	}
	return takers
}

// warnShared warns of VFs that both selectors name. A later pool that takes the rest of what an earlier one has picked
// from is a common and sound way to write a file, and is not meant.
func (p *parser) warnShared(s claim, earlier []claim) {
	for _, e := range earlier {
		if e.index == s.index || e.pool.Type != s.pool.Type || s.selector.covers(e.selector) || !s.selector.meets(e.selector) {
			continue
		}
		if shared := s.selector.shared(e.selector); shared != "" {
			p.warn(s.at, "%s is in resourceList[%d] (%s), too, which comes first and gets it", shared, e.index, e.pool.Resource)
		}
	}
}

func (s *Selector) empty() bool {
	return s.VDPAType == "" && !s.IsRDMA && len(s.PFNames) == 0 && len(s.RootDevices) == 0 &&
		!slices.ContainsFunc(s.sets(), func(set *[]string) bool { return len(*set) > 0 })
}

// size counts the values that comparing the selector means to look at.
func (s *Selector) size() int {
	size := 1
	for _, set := range s.sets() {
		size += len(*set)
	}
	for _, r := range slices.Concat(s.PFNames, s.RootDevices) {
		size += 1 + len(r.Ranges)
	}
	return size
}

func (s *Selector) sets() []*[]string {
	return []*[]string{
		&s.Vendors, &s.Devices, &s.Drivers, &s.PCIAddresses, &s.ACPIIndexes, &s.LinkTypes, &s.DDPProfiles, &s.PKeys, &s.AuxTypes,
	}
}

func (s *Selector) covers(narrow *Selector) bool {
	narrowSets := narrow.sets()
	for i, wide := range s.sets() {
		if !superset(*wide, *narrowSets[i], func(a, b string) bool { return a == b }) {
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

// maxAtoms bounds what one selector is split into.
const maxAtoms = 4096

// atoms splits a selector into ones that have at most one value of each key, and take the same devices together; none if
// that were too many.
func (s *Selector) atoms() []*Selector {
	atoms := []*Selector{s}
	// each replaces every atom by several.
	each := func(count int, take func(atom *Selector, value int)) {
		if count < 2 || len(atoms)*count > maxAtoms {
			return // one that stays whole is only harder to cover
		}
		var split []*Selector
		for _, a := range atoms {
			for v := range count {
				atom := *a
				take(&atom, v)
				split = append(split, &atom)
			}
		}
		atoms = split
	}
	for i, set := range s.sets() {
		each(len(*set), func(atom *Selector, v int) { *atom.sets()[i] = (*set)[v : v+1] })
	}
	names, roots := single(s.PFNames), single(s.RootDevices)
	each(len(names), func(atom *Selector, v int) { atom.PFNames = names[v : v+1] })
	each(len(roots), func(atom *Selector, v int) { atom.RootDevices = roots[v : v+1] })
	return atoms
}

// single splits ranges into VFs, where they are not too many.
func single(all []Ranged) (split []Ranged) {
	for _, r := range all {
		if len(r.Ranges) == 0 {
			split = append(split, r)
		}
		for _, x := range r.Ranges {
			if x.Last-x.First >= maxAtoms {
				return all
			}
			for i := x.First; i <= x.Last; i++ {
				split = append(split, Ranged{r.PF, []Range{{i, i}}})
			}
		}
	}
	return split
}

// meets reports whether a device may match both selectors, as far as their values say.
func (s *Selector) meets(other *Selector) bool {
	others := other.sets()
	for i, set := range s.sets() {
		if len(*set) > 0 && len(*others[i]) > 0 && len(common(*set, *others[i])) == 0 {
			return false
		}
	}
	return s.VDPAType == "" || other.VDPAType == "" || s.VDPAType == other.VDPAType
}

// shared names the devices that both selectors name; empty: none. VFs that are named by nothing but a driver, say, are not
// looked for: whether there are any depends on the node.
func (s *Selector) shared(other *Selector) string {
	names := common(s.PCIAddresses, other.PCIAddresses)
	for _, pair := range [][2][]Ranged{{s.RootDevices, other.RootDevices}, {s.PFNames, other.PFNames}} {
		if len(pair[0]) == 0 || len(pair[1]) == 0 {
			continue
		}
		var both []string
		for _, r := range pair[0] {
			for _, o := range pair[1] {
				both = append(both, r.shared(o)...)
			}
		}
		if len(both) == 0 {
			return ""
		}
		names = both
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// shared are the VFs that both name, such as eth0#2-3.
func (r Ranged) shared(o Ranged) (names []string) {
	if r.PF != o.PF {
		return nil
	}
	if len(r.Ranges) == 0 || len(o.Ranges) == 0 {
		return []string{(Ranged{r.PF, append(slices.Clone(r.Ranges), o.Ranges...)}).String()}
	}
	for _, a := range r.Ranges {
		for _, b := range o.Ranges {
			if both := (Range{max(a.First, b.First), min(a.Last, b.Last)}); both.First <= both.Last {
				names = append(names, Ranged{r.PF, []Range{both}}.String())
			}
		}
	}
	return names
}

func common(a, b []string) (both []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}
