package offer

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// A Report says what would be offered, and why each other device would not.
type Report struct {
	Devices []DeviceReport `json:"devices"`
	Pools   []PoolReport   `json:"pools"`
}

// A DeviceReport is one device: the pool that it goes to, if any, and why each other pool does not have it.
type DeviceReport struct {
	ID        string         `json:"id"`
	Type      string         `json:"type"`
	Vendor    string         `json:"vendor"`
	Device    string         `json:"device"`
	Driver    string         `json:"driver,omitempty"`
	PF        string         `json:"pf,omitempty"`
	PFNames   []string       `json:"pfNames,omitempty"`
	Index     int            `json:"index"` // of a VF; -1: it is none
	NUMANode  int            `json:"numaNode"`
	Resource  string         `json:"resource,omitempty"`
	Unhealthy string         `json:"unhealthy,omitempty"`
	Refusals  []pool.Refusal `json:"refusals,omitempty"`
}

// A PoolReport is one pool and how many devices it gets.
type PoolReport struct {
	Resource string `json:"resource"`
	Devices  int    `json:"devices"`
}

// NewReport explains a configuration on a node's devices. held is what pods have; nil: nothing.
func NewReport(c *pool.Config, devices []*inventory.Device, held map[string]string) Report {
	var r Report
	counts := map[string]int{}
	for _, d := range devices {
		report := DeviceReport{
			ID: d.ID, Type: string(d.Type), Vendor: d.Vendor, Device: d.Product, Driver: d.Driver, PF: d.PF, PFNames: d.PFNames,
			Index: d.Index, NUMANode: d.NUMANode, Unhealthy: d.Unhealthy, Refusals: pool.Explain(c, &d.Device, held),
		}
		if p := pool.Assign(c, []*pool.Device{&d.Device}, held)[0]; p >= 0 {
			report.Resource = c.Pools[p].Resource
			counts[report.Resource]++
		}
		r.Devices = append(r.Devices, report)
	}
	for _, p := range c.Pools {
		r.Pools = append(r.Pools, PoolReport{p.Resource, counts[p.Resource]})
	}
	return r
}

// Print writes the report for a person.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tID\tDRIVER\tPF\tVF\tNUMA\tRESOURCE\tHEALTH")
	for _, d := range r.Devices {
		index := "-"
		if d.Index >= 0 {
			index = fmt.Sprint(d.Index)
		}
		names := strings.Join(d.PFNames, ",")
		health := "-"
		if d.Resource != "" {
			health = cmp.Or(d.Unhealthy, "healthy")
		}
		fmt.Fprintf(t, "%s\t%s:%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, d.Vendor, d.Device, cmp.Or(d.Driver, "-"), cmp.Or(names, d.PF, "-"),
			index, d.NUMANode, cmp.Or(d.Resource, "-"), health)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, p := range r.Pools {
		fmt.Fprintf(w, "%s: %d devices\n", p.Resource, p.Devices)
	}
	r.printRefusals(w)
	return nil
}

// printRefusals groups devices that one pool refused for one reason: 64 VFs are one line.
func (r Report) printRefusals(w io.Writer) {
	type line struct{ resource, reason string }
	groups := map[line][]string{}
	var order []line
	for _, d := range r.Devices {
		for _, x := range d.Refusals {
			l := line{x.Resource, x.Reason}
			if groups[l] == nil {
				order = append(order, l)
			}
			groups[l] = append(groups[l], d.ID)
		}
	}
	slices.SortStableFunc(order, func(a, b line) int { return cmp.Compare(a.resource, b.resource) })
	last := ""
	for _, l := range order {
		if l.resource != last {
			fmt.Fprintf(w, "\nNot in %s:\n", l.resource)
			last = l.resource
		}
		fmt.Fprintf(w, "  %s\n    %s\n", l.reason, strings.Join(groups[l], " "))
	}
}
