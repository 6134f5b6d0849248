package vf

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// ReadAll reads the entries of all of a PF's VFs, by number, in one request. Errors wrap ErrNoDevice.
func (c *Conn) ReadAll(pf PF) (map[int]Settings, error) {
	c.Count.PFReads++
	l, err := c.one(pf.Index, rtextVF|rtextSkipStats)
	if err != nil {
		return nil, fmt.Errorf("read the VFs of %s: %w", pf.Address, err)
	}
	if l.Address != "" && l.Address != pf.Address {
		return nil, fmt.Errorf("read the VFs of %s: %w: index %d is %s now, of %s", pf.Address, ErrNoDevice, pf.Index, l.Name, l.Address)
	}
	all, err := parseVFInfos(l.vfs)
	if err != nil {
		return nil, fmt.Errorf("read the VFs of %s: %w", pf.Address, err)
	}
	return all, nil
}

// parseVFInfos reads the value of an IFLA_VFINFO_LIST. Entries without a number are passed over.
func parseVFInfos(list []byte) (map[int]Settings, error) {
	infos, err := parseAttributes(list)
	if err != nil {
		return nil, err
	}
	all := make(map[int]Settings, len(infos))
	for _, info := range infos {
		attributes, err := parseAttributes(info.data)
		if err != nil {
			return nil, err
		}
		var s Settings
		number := -1
		for _, a := range attributes {
			if a.kind == attrMAC && len(a.data) >= 8 {
				number = int(binary.NativeEndian.Uint32(a.data))
			}
			s.decode(a.kind, a.data)
		}
		if number >= 0 {
			all[number] = s
		}
	}
	return all, nil
}

// A Value is one attribute of a VF, in words for a person.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Values lists what s says, in a fixed order.
func (s Settings) Values() []Value {
	var values []Value
	for _, a := range s.attributes(0) {
		values = append(values, Value{a.name, a.value})
	}
	return values
}

// A Difference is an attribute that is not what it should be, in words for a person.
type Difference struct {
	Name string `json:"name"`
	Want string `json:"want"`
	Have string `json:"have"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s is %s, and should be %s", d.Name, orNothing(d.Have), orNothing(d.Want))
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// Differences compares a VF's entry, as it was read, with what it should be, and is as lenient as Settle: what the driver
// does not report cannot be wrong, nor can any MAC be where the VF may choose.
func (s Settings) Differences(want Settings) []Difference {
	have := map[string]string{}
	for _, v := range s.Values() {
		have[v.Name] = v.Value
	}
	var all []Difference
	for _, v := range unsettled(s, want).Values() {
		all = append(all, Difference{v.Name, v.Value, have[v.Name]})
	}
	return all
}

// Differences compares a VF's interface, as it was read, with what it should be: all that Reset gives back, but not
// whether it is up, which is the host's business. Of want, a zero MAC, MTU or GSO and GRO size says nothing.
func (d Netdev) Differences(want Netdev) []Difference {
	var all []Difference
	add := func(counts bool, name, want, have string) {
		if counts && want != have {
			all = append(all, Difference{name, want, have})
		}
	}
	number := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	add(true, "name", want.Name, d.Name)
	add(true, "alternative names", strings.Join(want.AltNames, ", "), strings.Join(d.AltNames, ", "))
	add(true, "alias", want.Alias, d.Alias)
	add(!want.MAC.IsZero(), "address", want.MAC.String(), d.MAC.String())
	add(want.MTU != 0, "mtu", strconv.Itoa(want.MTU), strconv.Itoa(d.MTU))
	add(true, "promisc", onOff(want.Promisc), onOff(d.Promisc))
	add(true, "allmulticast", onOff(want.AllMulti), onOff(d.AllMulti))
	add(true, "arp", onOff(!want.NoARP), onOff(!d.NoARP))
	add(true, "multicast", onOff(!want.NoMulticast), onOff(!d.NoMulticast))
	add(d.XDP&^want.XDP != 0, "xdp", "none", "a program")
	add(true, "group", number(want.Group), number(d.Group))
	add(true, "txqueuelen", number(want.TxQueueLen), number(d.TxQueueLen))
	add(want.GSOMaxSize != 0, "gso_max_size", number(want.GSOMaxSize), number(d.GSOMaxSize))
	add(want.GSOMaxSegs != 0, "gso_max_segs", number(want.GSOMaxSegs), number(d.GSOMaxSegs))
	add(want.GROMaxSize != 0, "gro_max_size", number(want.GROMaxSize), number(d.GROMaxSize))
	add(want.GSOIPv4MaxSize != 0, "gso_ipv4_max_size", number(want.GSOIPv4MaxSize), number(d.GSOIPv4MaxSize))
	add(want.GROIPv4MaxSize != 0, "gro_ipv4_max_size", number(want.GROIPv4MaxSize), number(d.GROIPv4MaxSize))
	return all
}
