package vf

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The attributes of an IFLA_VF_INFO, as in linux/if_link.h. Each value starts with the VF's number.
const (
	attrMAC        = nl.IFLA_VF_MAC        // u32 vf, u8 mac[32]
	attrVLAN       = nl.IFLA_VF_VLAN       // u32 vf, u32 vlan, u32 qos
	attrSpoofCheck = nl.IFLA_VF_SPOOFCHK   // u32 vf, u32 on
	attrLinkState  = nl.IFLA_VF_LINK_STATE // u32 vf, u32 state
	attrRate       = nl.IFLA_VF_RATE       // u32 vf, u32 min, u32 max
	attrTrust      = nl.IFLA_VF_TRUST      // u32 vf, u32 on
	attrVLANList   = nl.IFLA_VF_VLAN_LIST  // nested: IFLA_VF_VLAN_INFO: u32 vf, u32 vlan, u32 qos, be16 protocol, 2 bytes padding
)

// unreported is what the kernel puts where a driver says nothing.
const unreported = 0xffffffff

// attrMask takes the flag bits off an attribute's type.
const attrMask = 0x3fff

func encode32(vf int, values ...uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(vf))
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func encodeBool(vf int, on bool) []byte {
	if on {
		return encode32(vf, 1)
	}
	return encode32(vf, 0)
}

func encodeMAC(vf int, m MAC) []byte {
	b := make([]byte, 4+32)
	binary.NativeEndian.PutUint32(b, uint32(vf))
	copy(b[4:], m[:])
	return b
}

func encodeVLANList(vf int, v VLAN) []byte {
	info := encode32(vf, uint32(v.ID), uint32(v.QoS))
	info = binary.BigEndian.AppendUint16(info, uint16(v.Proto))
	return nl.NewRtAttr(nl.IFLA_VF_VLAN_INFO, append(info, 0, 0)).Serialize()
}

// vfInfoList builds the one IFLA_VFINFO_LIST of a message: the kernel silently ignores a second.
func vfInfoList(attributes []attribute) *nl.RtAttr {
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	info := list.AddRtAttr(nl.IFLA_VF_INFO|unix.NLA_F_NESTED, nil)
	for _, a := range attributes {
		info.AddRtAttr(a.kind, a.data)
	}
	return list
}

// An rtattr is an attribute as it came from the kernel.
type rtattr struct {
	kind int
	data []byte
}

// parseAttributes splits what a netlink message or a nested attribute holds, up to what cannot be; the flag bits are off the kinds. The library's
// nl.ParseRouteAttr expects padding after the last attribute, too, and panics where there is none.
func parseAttributes(b []byte) (attributes []rtattr, err error) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return attributes, fmt.Errorf("attribute of %d bytes in a message that has %d left: %w", size, len(b), unix.EINVAL)
		}
		kind := int(binary.NativeEndian.Uint16(b[2:]) & attrMask)
		attributes = append(attributes, rtattr{kind: kind, data: b[unix.SizeofRtAttr:size]})
		const align = unix.RTA_ALIGNTO
		b = b[min((size+align-1)&^(align-1), len(b)):]
	}
	return attributes, nil
}

// parseVFInfo finds VF number index in the value of an IFLA_VFINFO_LIST.
func parseVFInfo(list []byte, index int) (Settings, error) {
	infos, err := parseAttributes(list)
	if err != nil {
		return Settings{}, fmt.Errorf("parse the PF's list of VFs: %w", err)
	}
	for _, info := range infos {
		attributes, err := parseAttributes(info.data)
		if err != nil {
			return Settings{}, fmt.Errorf("parse the PF's list of VFs: %w", err)
		}
		var s Settings
		found := false
		for _, a := range attributes {
			if len(a.data) >= 8 && a.kind == attrMAC {
				found = int(binary.NativeEndian.Uint32(a.data)) == index
			}
			s.decode(a.kind, a.data)
		}
		if found {
			return s, nil
		}
	}
	return Settings{}, fmt.Errorf("%w: the PF lists %d VFs, and not number %d", ErrNoVF, len(infos), index)
}

// decode takes one attribute of an IFLA_VF_INFO. Those that are unknown, short or unreported are passed over.
func (s *Settings) decode(kind int, b []byte) {
	u32 := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	onOff := func() *bool {
		if len(b) < 8 || u32(1) == unreported {
			return nil
		}
		return new(u32(1) != 0)
	}
	switch {
	case kind == attrMAC && len(b) >= 4+6:
		s.MAC = new(MAC(b[4 : 4+6]))
	case kind == attrVLAN && len(b) >= 12 && s.VLAN == nil:
		s.VLAN = &VLAN{ID: uint16(u32(1)), QoS: uint8(u32(2)), Proto: Proto8021Q}
	case kind == attrVLANList:
		s.decodeVLANList(b)
	case kind == attrRate && len(b) >= 12:
		s.Rate = &Rate{Min: u32(1), Max: u32(2)}
	case kind == attrSpoofCheck:
		s.SpoofCheck = onOff()
	case kind == attrTrust:
		s.Trust = onOff()
	case kind == attrLinkState && len(b) >= 8:
		s.LinkState = new(LinkState(u32(1)))
	}
}

func (s *Settings) decodeVLANList(b []byte) {
	tags, err := parseAttributes(b)
	if err != nil || len(tags) == 0 || len(tags[0].data) < 14 {
		return
	}
	v := tags[0].data
	s.VLAN = &VLAN{
		ID:    uint16(binary.NativeEndian.Uint32(v[4:])),
		QoS:   uint8(binary.NativeEndian.Uint32(v[8:])),
		Proto: Proto(binary.BigEndian.Uint16(v[12:])),
	}
}
