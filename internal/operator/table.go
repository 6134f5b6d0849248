package operator

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// Print writes the status for a person: a line for each PF, one for each of its VFs below, and below that what is not as
// it should be.
func (s *Status) Print(w io.Writer) error {
	rows := [][]string{{"VF", "ADDRESS", "DRIVER", "POOL", "STATE", "OWNER", "SETTINGS"}}
	for i := range s.PFs {
		for j := range s.PFs[i].VFs {
			rows = append(rows, s.PFs[i].VFs[j].row())
		}
	}
	lines := align(rows)
	for i := range lines {
		lines[i] = fold(lines[i], rows[i])
	}
	var b strings.Builder
	next := 1
	for i := range s.PFs {
		pf := &s.PFs[i]
		b.WriteString(pf.title() + "\n")
		if len(pf.VFs) > 0 {
			b.WriteString("  " + lines[0] + "\n")
		}
		for j := range pf.VFs {
			b.WriteString("  " + lines[next] + "\n")
			next++
			for _, trouble := range pf.VFs[j].trouble() {
				b.WriteString("      ! " + trouble + "\n")
			}
		}
	}
	if len(s.PFs) == 0 {
		b.WriteString("There is no PF: no NIC here can have VFs.\n")
	}
	for _, x := range s.Stray {
		b.WriteString(x.line() + "\n")
	}
	for _, note := range s.Notes {
		b.WriteString("note: " + strings.ReplaceAll(note, "\n", "\n      ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// columns is how wide a table may be.
const columns = 118

// fold puts the last cell of a line that is too long below it.
func fold(line string, row []string) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	last := row[len(row)-1]
	return strings.TrimRight(strings.TrimSuffix(line, last), " ") + "\n      " + last
}

func (pf *PF) title() string {
	parts := []string{cmp.Or(pf.Name, "(no interface)"), pf.Address, cmp.Or(pf.Driver, "(no driver)")}
	if pf.NUMANode >= 0 {
		parts = append(parts, "NUMA "+strconv.Itoa(pf.NUMANode))
	}
	if pf.Name != "" {
		parts = append(parts, map[bool]string{true: "link up", false: "link down"}[pf.Up])
	}
	parts = append(parts, fmt.Sprintf("%d of %d VFs", len(pf.VFs), pf.TotalVFs))
	return strings.Join(append(parts, cmp.Or(pf.DeviceName, pf.Vendor+":"+pf.Device)), "  ")
}

func (v *VF) row() []string {
	owner := "-"
	if v.Owner != nil {
		owner = v.Owner.String()
	}
	return []string{
		strconv.Itoa(v.Index), v.Address, cmp.Or(v.Driver, "-"), middle(cmp.Or(v.Resource, "-"), 30), string(v.State), middle(owner, 40),
		cmp.Or(v.summary(), "-"),
	}
}

// trouble is all that is not as it should be, a line each.
func (v *VF) trouble() (all []string) {
	if v.Unhealthy != "" {
		all = append(all, "unhealthy: "+v.Unhealthy)
	}
	if v.State == Left {
		all = append(all, "its owner is gone: the next pod on it puts it back first, and so does vfctl gc")
	}
	for _, d := range v.Differences {
		all = append(all, d.String())
	}
	return append(all, v.Problems...)
}

// summary says of the settings what is not as everywhere.
func (v *VF) summary() string {
	s := v.Settings
	if s == nil {
		return ""
	}
	var parts []string
	if s.VLAN != nil && s.VLAN.ID != 0 {
		vlan := fmt.Sprintf("vlan %d", s.VLAN.ID)
		if s.VLAN.QoS != 0 {
			vlan += fmt.Sprintf(" qos %d", s.VLAN.QoS)
		}
		if s.VLAN.Proto != vf.Proto8021Q {
			vlan += " " + s.VLAN.Proto.String()
		}
		parts = append(parts, vlan)
	}
	if s.MAC != nil && !s.MAC.IsZero() && v.setsMAC() {
		parts = append(parts, "mac "+s.MAC.String())
	}
	if s.SpoofCheck != nil && !*s.SpoofCheck {
		parts = append(parts, "spoofchk off")
	}
	if s.Trust != nil && *s.Trust {
		parts = append(parts, "trust on")
	}
	if s.LinkState != nil && *s.LinkState != vf.LinkAuto {
		parts = append(parts, "link "+s.LinkState.String())
	}
	if s.Rate != nil && *s.Rate != (vf.Rate{}) {
		parts = append(parts, fmt.Sprintf("rate %d-%d", s.Rate.Min, s.Rate.Max))
	}
	return strings.Join(parts, ", ")
}

// setsMAC reports whether the MAC at the PF was set there: drivers also show one that the VF has chosen.
func (v *VF) setsMAC() bool {
	if v.view.Open() {
		return v.view.Record.Wanted.MAC != nil
	}
	return v.view.Netdev == nil || v.view.Netdev.MAC != *v.Settings.MAC
}

func (x *Stray) line() string {
	switch {
	case x.Problem != "":
		return "record " + x.Address + ": " + x.Problem
	case x.Owner != nil:
		return "record " + x.Address + ": the VF is no more; it was " + x.Owner.String() + "'s"
	}
	return "record " + x.Address + ": the VF is no more"
}

// align pads the columns of rows, but not the last one.
func align(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, len(rows))
	for r, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		lines[r] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// middle shortens what is too long for a table: the ends of names tell more than their middles.
func middle(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most/2]) + "…" + string(r[len(r)-(most-most/2-1):])
}

// sections of Show.
type sheet struct{ strings.Builder }

func (s *sheet) line(name, format string, args ...any) {
	if value := fmt.Sprintf(format, args...); value != "" {
		fmt.Fprintf(s, "%-12s %s\n", name, value)
	}
}

// Show writes all that is known of one VF for a person.
func (v *VF) Show(w io.Writer, pf *PF) error {
	s := &sheet{}
	s.line("VF", "%d of %s (%s)", v.Index, cmp.Or(pf.Name, "(no interface)"), pf.Address)
	s.line("address", "%s", v.Address)
	s.line("driver", "%s", cmp.Or(v.Driver, "(none)"))
	if v.NUMANode >= 0 {
		s.line("NUMA node", "%d", v.NUMANode)
	}
	s.line("IOMMU group", "%s", v.device.IOMMUGroup)
	if v.Interface != "" {
		s.line("interface", "%s %s", v.Interface, map[bool]string{true: "in the pod", false: "on the host"}[v.view.InPod])
	}
	s.line("pool", "%s", cmp.Or(v.Resource, "(none)"))
	s.line("health", "%s", cmp.Or(v.Unhealthy, "healthy"))
	s.line("state", "%s", v.State)
	v.showOwner(s)
	s.WriteString(v.settingsTable())
	for _, trouble := range v.trouble() {
		s.WriteString("! " + trouble + "\n")
	}
	_, err := io.WriteString(w, s.String())
	return err
}

func (v *VF) showOwner(s *sheet) {
	o := v.Owner
	if o == nil {
		return
	}
	if o.Pod != "" {
		s.line("pod", "%s/%s", o.Namespace, o.Pod)
	}
	s.line("container", "%s", o.Container)
	s.line("sandbox", "%s", o.ContainerID)
	s.line("as", "%s", o.Interface)
	s.line("network", "%s", o.Network)
	if r := v.view.Record; v.view.Open() && r.Netns.Path != "" {
		state := ""
		if !v.captured {
			state = map[bool]string{true: " (there)", false: " (gone)"}[v.view.Alive]
		}
		s.line("netns", "%s%s", r.Netns.Path, state)
	}
}

// settingsTable compares what was, what the attachment wanted and what is.
func (v *VF) settingsTable() string {
	base, wanted, live := map[string]string{}, map[string]string{}, map[string]string{}
	note := func(into map[string]string, s vf.Settings) {
		for _, x := range s.Values() {
			into[x.Name] = x.Value
		}
	}
	if r := v.view.Record; r != nil && v.view.Void == "" {
		note(base, r.Baseline.Settings)
		if r.Phase != sriov.Free {
			note(wanted, r.Wanted)
		}
	}
	if v.view.Live != nil {
		note(live, *v.view.Live)
	}
	if len(base)+len(live) == 0 {
		return ""
	}
	rows := [][]string{{"AT THE PF", "BEFORE", "WANTED", "NOW"}}
	for _, name := range []string{"mac", "vlan", "rate", "spoofchk", "link_state", "trust"} {
		if base[name] != "" || live[name] != "" {
			rows = append(rows, []string{name, cmp.Or(base[name], "-"), cmp.Or(wanted[name], "-"), cmp.Or(live[name], "-")})
		}
	}
	return "\n" + strings.Join(align(rows), "\n") + "\n\n"
}

// Show writes what is known of a PF for a person, with its VFs.
func (pf *PF) Show(w io.Writer) error {
	return (&Status{PFs: []PF{*pf}}).Print(w)
}
