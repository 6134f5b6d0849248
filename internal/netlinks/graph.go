package netlinks

import (
	"cmp"
	"slices"
)

// An iface is what the kernel says of an interface: a NodeLink without what it means to the node, and its place.
type iface struct {
	NodeLink

	kind           string
	master, parent int  // indexes; 0: none
	foreign        bool // the parent's index is one of another namespace
}

// A graph is the node's interfaces and which sits below which: a slave below its bond, bridge, team or VRF, the parent
// below its VLAN or macvlan.
type graph struct {
	links    map[int]*iface
	below    map[int][]int // sorted
	children map[int][]int // by their parent's index, foreign or not
	switches []int         // the interfaces of Open vSwitch's own

	routes, addresses []root
	marks             map[int]mark // of those that have one
}

// A root is an interface that means something to the node by itself.
type root struct {
	index  int
	reason string
}

// A mark says what an interface means: see NodeLink.
type mark struct{ uplink, addressed string }

func newGraph() *graph {
	return &graph{links: map[int]*iface{}, below: map[int][]int{}, children: map[int][]int{}}
}

// set replaces an interface. With nil it is gone.
func (g *graph) set(index int, now *iface) {
	if was := g.links[index]; was != nil {
		delete(g.links, index)
		g.places(index, was, remove)
	}
	if now != nil {
		g.links[index] = now
		g.places(index, now, insert)
	}
}

func (g *graph) places(index int, i *iface, change func(m map[int][]int, key, index int)) {
	if i.master != 0 {
		change(g.below, i.master, index)
	}
	if i.parent != 0 && i.parent != index {
		change(g.children, i.parent, index)
		if !i.foreign {
			change(g.below, index, i.parent)
		}
	}
	if i.kind == openVSwitch {
		switches := map[int][]int{0: g.switches}
		change(switches, 0, index)
		g.switches = switches[0]
	}
}

func insert(m map[int][]int, key, index int) {
	i, _ := slices.BinarySearch(m[key], index)
	m[key] = slices.Insert(m[key], i, index)
}

func remove(m map[int][]int, key, index int) {
	i, found := slices.BinarySearch(m[key], index)
	if found {
		m[key] = slices.Delete(m[key], i, i+1)
	}
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// relatives are the interfaces whose parent may be another since the one with this index came or went.
func (g *graph) relatives(index int) []int {
	relatives := slices.Clone(g.children[index])
	if now := g.links[index]; now != nil && !now.foreign && g.links[now.parent] != nil && now.parent != index {
		relatives = append(relatives, now.parent)
	}
	return relatives
}

// mark finds what each interface means: of several reasons, the first root's.
func (g *graph) mark() map[int]mark {
	marks := map[int]mark{}
	for _, r := range g.routes {
		g.walk(r, func(index int, reason string) {
			m := marks[index]
			m.uplink = cmp.Or(m.uplink, reason)
			marks[index] = m
		})
	}
	for _, a := range g.addresses {
		g.walk(a, func(index int, reason string) {
			m := marks[index]
			m.addressed = cmp.Or(m.addressed, reason)
			marks[index] = m
		})
	}
	return marks
}

// walk gives the interface and everything below it a reason. Of Open vSwitch only its flows know what carries what, and its
// internal interfaces, such as br-ex with the node's address, do not say to which datapath they belong: what goes through one
// of its interfaces may go through every NIC that it has.
func (g *graph) walk(from root, set func(index int, reason string)) {
	seen, switched := map[int]bool{}, false
	var walk func(index int, reason string)
	walk = func(index int, reason string) {
		link := g.links[index]
		if link == nil || seen[index] {
			return
		}
		seen[index] = true
		set(index, reason)
		for _, lower := range g.below[index] {
			walk(lower, "it is below "+link.Name+": "+reason)
		}
		if !switched && (link.kind == openVSwitch || g.isPort(link)) {
			switched = true
			for _, s := range g.switches {
				for _, port := range g.below[s] {
					walk(port, "Open vSwitch switches between it and "+link.Name+": "+reason)
				}
			}
		}
	}
	walk(from.index, from.reason)
}

const openVSwitch = "openvswitch" // the kind of its internal interfaces, of which one is the master of the NICs

// isPort knows the NICs of Open vSwitch.
func (g *graph) isPort(link *iface) bool {
	master := g.links[link.master]
	return master != nil && master.kind == openVSwitch
}
