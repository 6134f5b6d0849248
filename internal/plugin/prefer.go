package plugin

import (
	"cmp"
	"slices"
)

// prefer chooses size devices: those that must be in first, then of one NUMA node as far as it goes, then packed on few
// PFs, so that others stay whole, or spread over many, as the resource says. It gives fewer if there are not enough.
func prefer(r *Resource, available, must []string, size int) []string {
	byID := make(map[string]*Device, len(r.Devices))
	for i := range r.Devices {
		byID[r.Devices[i].ID] = &r.Devices[i]
	}
	chosen := slices.Clone(must)
	taken := make(map[string]bool, len(must))
	for _, id := range must {
		taken[id] = true
	}
	var free []*Device
	for _, id := range available {
		if d := byID[id]; d != nil && d.Unhealthy == "" && !taken[id] {
			taken[id] = true
			free = append(free, d)
		}
	}
	for len(chosen) < size && len(free) > 0 {
		best := slices.MinFunc(free, ranking(r, byID, chosen, free, size))
		chosen = append(chosen, best.ID)
		free = slices.DeleteFunc(free, func(d *Device) bool { return d == best })
	}
	return chosen
}

// ranking orders free devices, best first, given those that are chosen already.
func ranking(r *Resource, byID map[string]*Device, chosen []string, free []*Device, size int) func(a, b *Device) int {
	freeOnPF, freeOnNode := map[string]int{}, map[int]int{}
	for _, d := range free {
		freeOnPF[d.PF]++
		freeOnNode[d.NUMANode]++
	}
	chosenOnPF, chosenOnNode := map[string]int{}, map[int]int{}
	for _, id := range chosen {
		if d := byID[id]; d != nil {
			chosenOnPF[d.PF]++
			chosenOnNode[d.NUMANode]++
		}
	}
	fits := func(d *Device) bool { return chosenOnNode[d.NUMANode]+freeOnNode[d.NUMANode] >= size }
	return func(a, b *Device) int {
		byPF := cmp.Or(
			cmp.Compare(chosenOnPF[b.PF], chosenOnPF[a.PF]),
			cmp.Compare(freeOnPF[a.PF], freeOnPF[b.PF]),
		)
		if r.Spread {
			byPF = -byPF
		}
		return cmp.Or(
			cmp.Compare(chosenOnNode[b.NUMANode], chosenOnNode[a.NUMANode]),
			compareBool(fits(a), fits(b)),
			nodeOrder(freeOnNode, fits(a) && !r.Spread, a, b),
			byPF,
			cmp.Compare(a.ID, b.ID),
		)
	}
}

// nodeOrder keeps an allocation on one node. Of those that can hold it the fullest comes first, so that others stay whole
// for large ones; where none can, or the resource is to be spread, the emptiest.
func nodeOrder(free map[int]int, fullest bool, a, b *Device) int {
	if a.NUMANode == b.NUMANode {
		return 0
	}
	order := cmp.Compare(free[a.NUMANode], free[b.NUMANode])
	if !fullest {
		order = -order
	}
	return cmp.Or(order, cmp.Compare(a.NUMANode, b.NUMANode))
}

// compareBool puts true first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}
