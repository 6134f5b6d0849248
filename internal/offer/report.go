package offer

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	ID         string         `json:"id"`
	Type       string         `json:"type"`
	Vendor     string         `json:"vendor"`
	Device     string         `json:"device"`
	VendorName string         `json:"vendorName,omitempty"`
	DeviceName string         `json:"deviceName,omitempty"`
	Driver     string         `json:"driver,omitempty"`
	PF         string         `json:"pf,omitempty"`
	PFNames    []string       `json:"pfNames,omitempty"`
	Index      int            `json:"index"` // of a VF; -1: it is none
	NUMANode   int            `json:"numaNode"`
	Resource   string         `json:"resource,omitempty"`
	Unhealthy  string         `json:"unhealthy,omitempty"`
	Refusals   []pool.Refusal `json:"refusals,omitempty"`
}

// A PoolReport is one pool, how many devices it gets, and how many of those nobody could use now.
type PoolReport struct {
	Resource  string `json:"resource"`
	Devices   int    `json:"devices"`
	Unhealthy int    `json:"unhealthy"`
}

// Names are what vendors and devices are called, by their PCI ids; "" for one that is not known.
type Names func(vendor, device string) (vendorName, deviceName string)

// NewReport explains a configuration on a node's devices. held is what pods have, by device; nil: nothing. Without names,
// there are only ids.
func NewReport(c *pool.Config, devices []*inventory.Device, held map[string]string, names Names) Report {
	r := Report{Devices: []DeviceReport{}, Pools: make([]PoolReport, len(c.Pools))}
	for i := range c.Pools {
		r.Pools[i].Resource = c.Pools[i].Resource
	}
	all := make([]*pool.Device, len(devices))
	for i, d := range devices {
		all[i] = &d.Device
	}
	for i, p := range pool.Assign(c, all, held) {
		d := devices[i]
		report := DeviceReport{
			ID: d.ID, Type: string(d.Type), Vendor: d.Vendor, Device: d.Product, Driver: d.Driver, PF: d.PF, PFNames: d.PFNames,
			Index: d.Index, NUMANode: d.NUMANode, Unhealthy: d.Unhealthy, Refusals: pool.Explain(c, &d.Device, held),
		}
		if names != nil {
			report.VendorName, report.DeviceName = names(d.Vendor, d.Product)
		}
		if p >= 0 {
			report.Resource = c.Pools[p].Resource
			report.Unhealthy = d.UnhealthyIn(&c.Pools[p])
			r.Pools[p].Devices++
			if report.Unhealthy != "" {
				r.Pools[p].Unhealthy++
			}
		}
		r.Devices = append(r.Devices, report)
	}
	return r
}

// Print writes the report for a person.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tID\tDRIVER\tPF\tVF\tNUMA\tRESOURCE\tHEALTH")
	for i := range r.Devices {
		d := &r.Devices[i]
		health := "-"
		if d.Resource != "" {
			health = cmp.Or(d.Unhealthy, "healthy")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.kind(), cmp.Or(d.Driver, "-"), cmp.Or(d.pf(), "-"),
			orDash(d.Index), orDash(d.NUMANode), cmp.Or(d.Resource, "-"), health)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	r.printKinds(w)
	r.printPools(w)
	r.printRefusals(w)
	return nil
}

func orDash(n int) string {
	if n < 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func (d *DeviceReport) kind() string { return d.Vendor + ":" + d.Device }

// pf is what a person calls the device's PF.
func (d *DeviceReport) pf() string {
	if len(d.PFNames) > 0 {
		return d.PFNames[0]
	}
	return d.PF
}

// printKinds says once what the ids stand for, where it is known.
func (r Report) printKinds(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	seen := map[string]bool{}
	for i := range r.Devices {
		d := &r.Devices[i]
		if seen[d.kind()] || d.VendorName == "" && d.DeviceName == "" {
			continue
		}
		if len(seen) == 0 {
			fmt.Fprintln(t)
		}
		seen[d.kind()] = true
		fmt.Fprintf(t, "%s\t%s, %s\n", d.kind(), cmp.Or(d.VendorName, "?"), cmp.Or(d.DeviceName, "?"))
	}
	_ = t.Flush() // the next write to w fails, too
}

func (r Report) printPools(w io.Writer) {
	if len(r.Pools) == 0 {
		fmt.Fprintln(w, "\nThe configuration has no pools: nothing is offered.")
		return
	}
	fmt.Fprintln(w)
	for _, p := range r.Pools {
		fmt.Fprintf(w, "%s: %s", p.Resource, counted(p.Devices, "device"))
		if p.Unhealthy > 0 {
			fmt.Fprintf(w, ", of which %d unhealthy", p.Unhealthy)
		}
		fmt.Fprintln(w)
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printRefusals groups devices that one pool refused for one reason: 64 VFs are one line.
func (r Report) printRefusals(w io.Writer) {
	groups := map[pool.Refusal][]*DeviceReport{}
	var order []pool.Refusal
	for i := range r.Devices {
		for _, x := range r.Devices[i].Refusals {
			if groups[x] == nil {
				order = append(order, x)
			}
			groups[x] = append(groups[x], &r.Devices[i])
		}
	}
	for _, p := range r.Pools {
		title := "\nNot in " + p.Resource + ":\n"
		for _, x := range order {
			if x.Resource != p.Resource {
				continue
			}
			fmt.Fprintf(w, "%s  %s\n%s", title, x.Reason, wrap(together(groups[x]), "    ", 100))
			title = ""
		}
	}
}

// together names devices in few words: VFs by their PF, as "ens785f0 VF 0-3,7", the others by id.
func together(devices []*DeviceReport) (words []string) {
	byPF := map[string][]int{}
	var pfs []string
	for _, d := range devices {
		pf := d.pf()
		if pf == "" || d.Index < 0 || d.Type != string(pool.NetDevice) {
			words = append(words, d.ID)
			continue
		}
		if byPF[pf] == nil {
			pfs = append(pfs, pf)
		}
		byPF[pf] = append(byPF[pf], d.Index)
	}
	for _, pf := range pfs {
		words = append(words, pf+" VF "+ranges(byPF[pf]))
	}
	return words
}

// ranges writes indexes as a configuration would.
func ranges(indexes []int) string {
	slices.Sort(indexes)
	var parts []string
	for i := 0; i < len(indexes); {
		r := pool.Range{First: indexes[i], Last: indexes[i]}
		for i++; i < len(indexes) && indexes[i] <= r.Last+1; i++ {
			r.Last = indexes[i]
		}
		parts = append(parts, r.String())
	}
	return strings.Join(parts, ",")
}

// wrap puts words, with a space between them, into lines of a width.
func wrap(words []string, indent string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range words {
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+2+len(word) > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteString("  ")
			column += 2
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String() + "\n"
}
