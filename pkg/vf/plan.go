package vf

import (
	"fmt"
	"strings"
)

// Plan tells what of want is still to be set on a VF that has have. It is pure. What have does not say counts as
// different.
func Plan(have, want Settings) Settings {
	return Settings{
		MAC:        differing(have.MAC, want.MAC),
		VLAN:       differing(have.VLAN, want.VLAN),
		Rate:       differing(have.Rate, want.Rate),
		SpoofCheck: differing(have.SpoofCheck, want.SpoofCheck),
		LinkState:  differing(have.LinkState, want.LinkState),
		Trust:      differing(have.Trust, want.Trust),
	}
}

// With lays over onto s: what over says counts, the rest is s's.
func (s Settings) With(over Settings) Settings {
	return Settings{
		MAC:        either(over.MAC, s.MAC),
		VLAN:       either(over.VLAN, s.VLAN),
		Rate:       either(over.Rate, s.Rate),
		SpoofCheck: either(over.SpoofCheck, s.SpoofCheck),
		LinkState:  either(over.LinkState, s.LinkState),
		Trust:      either(over.Trust, s.Trust),
	}
}

// Of is the part of s that which says something about.
func (s Settings) Of(which Settings) Settings {
	return Settings{
		MAC:        reported(which.MAC, s.MAC),
		VLAN:       reported(which.VLAN, s.VLAN),
		Rate:       reported(which.Rate, s.Rate),
		SpoofCheck: reported(which.SpoofCheck, s.SpoofCheck),
		LinkState:  reported(which.LinkState, s.LinkState),
		Trust:      reported(which.Trust, s.Trust),
	}
}

// IsEmpty reports whether s says nothing.
func (s Settings) IsEmpty() bool { return s == Settings{} }

// String lists what s says, such as "vlan 100, QoS 0, 802.1q; trust off".
func (s Settings) String() string {
	var parts []string
	for _, a := range s.attributes(0) {
		parts = append(parts, a.name+" "+a.value)
	}
	return strings.Join(parts, "; ")
}

func differing[T comparable](have, want *T) *T {
	if want == nil || (have != nil && *have == *want) {
		return nil
	}
	return want
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// unsettled tells what of want a VF that shows live does not have. It is Plan for those who look and do not set: a driver
// that does not report an attribute cannot be checked on it, after a zero MAC, which lets the VF choose, every answer is
// right, and several drivers report 802.1Q where 802.1ad is set.
func unsettled(live, want Settings) Settings {
	diff := Plan(live, want)
	if want.MAC != nil && want.MAC.IsZero() {
		diff.MAC = nil
	}
	if diff.VLAN != nil && live.VLAN != nil && live.VLAN.ID == want.VLAN.ID && live.VLAN.QoS == want.VLAN.QoS && live.VLAN.Proto == Proto8021Q {
		diff.VLAN = nil
	}
	return diff.Of(live)
}

func reported[T any](live, diff *T) *T {
	if live == nil {
		return nil
	}
	return diff
}

// An attribute is one part of an IFLA_VF_INFO.
type attribute struct {
	name  string
	value string
	part  Settings // this attribute alone
	kind  int
	data  []byte
}

// attributes encodes s for VF number index, in the order in which the kernel applies them.
func (s Settings) attributes(index int) []attribute {
	var as []attribute
	add := func(name, value string, part Settings, kind int, data []byte) {
		as = append(as, attribute{name, value, part, kind, data})
	}
	if s.MAC != nil {
		add("mac", s.MAC.String(), Settings{MAC: s.MAC}, attrMAC, encodeMAC(index, *s.MAC))
	}
	if s.VLAN != nil {
		// The plain attribute cannot carry a protocol, and the list is refused by drivers that know only 802.1Q.
		if s.VLAN.Proto == Proto8021Q {
			add("vlan", s.VLAN.String(), Settings{VLAN: s.VLAN}, attrVLAN, encode32(index, uint32(s.VLAN.ID), uint32(s.VLAN.QoS)))
		} else {
			add("vlan", s.VLAN.String(), Settings{VLAN: s.VLAN}, attrVLANList, encodeVLANList(index, *s.VLAN))
		}
	}
	if s.Rate != nil {
		add("rate", s.Rate.String(), Settings{Rate: s.Rate}, attrRate, encode32(index, s.Rate.Min, s.Rate.Max))
	}
	if s.SpoofCheck != nil {
		add("spoofchk", onOff(*s.SpoofCheck), Settings{SpoofCheck: s.SpoofCheck}, attrSpoofCheck, encodeBool(index, *s.SpoofCheck))
	}
	if s.LinkState != nil {
		add("link_state", fmt.Sprint(*s.LinkState), Settings{LinkState: s.LinkState}, attrLinkState, encode32(index, uint32(*s.LinkState)))
	}
	if s.Trust != nil {
		add("trust", onOff(*s.Trust), Settings{Trust: s.Trust}, attrTrust, encodeBool(index, *s.Trust))
	}
	return as
}
