package pool

// An Assignment says which pool has which device: for each, the index of its pool in Config.Pools, or -1.
type Assignment []int

// Assign gives each device to the first pool that takes it. held says which devices a pod has, by id, and as which
// resource: such a device stays in that resource's pool whatever the selectors say now, since to offer it elsewhere would
// give it to a second pod; and if that pool is gone, nobody offers it.
func Assign(c *Config, devices []*Device, held map[string]string) Assignment {
	pools := make(map[string]int, len(c.Pools))
	for i := range c.Pools {
		pools[c.Pools[i].Resource] = i
	}
	a := make(Assignment, len(devices))
	for i, d := range devices {
		a[i] = -1
		if resource, ok := held[d.ID]; ok {
			if p, ok := pools[resource]; ok {
				a[i] = p
			}
			continue
		}
		for p := range c.Pools {
			if c.Pools[p].takes(d) {
				a[i] = p
				break
			}
		}
	}
	return a
}

// A Refusal is why a pool did not take a device.
type Refusal struct {
	Resource string `json:"resource"`
	Reason   string `json:"reason"`
}

// Explain says for one device why each pool that did not get it did not.
func Explain(c *Config, d *Device, held map[string]string) (refusals []Refusal) {
	owner := Assign(c, []*Device{d}, held)[0]
	holder, isHeld := held[d.ID]
	for i := range c.Pools {
		if i == owner {
			continue
		}
		p := &c.Pools[i]
		reason := p.refusal(d)
		switch {
		case isHeld:
			reason = "a pod has it as " + holder
		case reason == "":
			reason = "it fits, but " + c.Pools[owner].Resource + " comes first"
		}
		refusals = append(refusals, Refusal{p.Resource, reason})
	}
	return refusals
}
