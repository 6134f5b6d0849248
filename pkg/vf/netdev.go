package vf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Netdev is a VF's network interface: what of it we, or whoever has it in a pod, may change and that stays with it when it
// moves. Its rings, channels and offloads are a Tuning.
type Netdev struct {
	// Index is the interface index. It is usually kept by a move, and not if somebody there has it already.
	Index       int      `json:"index"`
	Name        string   `json:"name"`
	AltNames    []string `json:"altNames,omitempty"` // sorted
	Alias       string   `json:"alias,omitempty"`
	MAC         MAC      `json:"mac"` // what the interface uses now
	MTU         int      `json:"mtu"`
	MaxMTU      int      `json:"maxMTU,omitempty"`
	Up          bool     `json:"up,omitempty"`
	Promisc     bool     `json:"promisc,omitempty"`  // as a user asked for it; a packet socket's own is not counted
	AllMulti    bool     `json:"allMulti,omitempty"` // likewise
	NoARP       bool     `json:"noARP,omitempty"`
	NoMulticast bool     `json:"noMulticast,omitempty"` // "multicast off": also no IPv6 neighbours are found
	Group       uint32   `json:"group,omitempty"`
	TxQueueLen  uint32   `json:"txQueueLen"`
	GSOMaxSize  uint32   `json:"gsoMaxSize,omitempty"`
	GSOMaxSegs  uint32   `json:"gsoMaxSegs,omitempty"`
	GROMaxSize  uint32   `json:"groMaxSize,omitempty"`
	// The same for IPv4, since Linux 6.3; 0 before.
	GSOIPv4MaxSize uint32 `json:"gsoIPv4MaxSize,omitempty"`
	GROIPv4MaxSize uint32 `json:"groIPv4MaxSize,omitempty"`
	// XDP are the modes, as bits XDP_FLAGS_*_MODE, in which a program handles all frames. It stays with the interface.
	XDP uint32 `json:"xdp,omitempty"`

	// Address is the PCI address of the device behind the interface; kernels before 5.14 do not say.
	Address string `json:"-"`
	// Carrier says that the interface can send now.
	Carrier bool `json:"-"`
}

// A link is a whole RTM_NEWLINK.
type link struct {
	Netdev
	vfs    []byte // the value of IFLA_VFINFO_LIST
	numVFs int
}

// parseLink reads an RTM_NEWLINK without its netlink header: an ifinfomsg and attributes.
func parseLink(b []byte) (link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, errors.New("parse an interface: the kernel's message is too short")
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	l := link{Netdev: Netdev{
		Index:       int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Up:          flags&unix.IFF_UP != 0,
		Promisc:     flags&unix.IFF_PROMISC != 0,
		AllMulti:    flags&unix.IFF_ALLMULTI != 0,
		NoARP:       flags&unix.IFF_NOARP != 0,
		NoMulticast: flags&unix.IFF_MULTICAST == 0,
		Carrier:     flags&unix.IFF_LOWER_UP != 0,
	}}
	attributes, err := parseAttributes(b[unix.SizeofIfInfomsg:])
	for _, a := range attributes {
		l.decode(a.kind, a.data)
	}
	if err != nil && l.numVFs > 0 {
		// The length of its list is a 16-bit number, and what follows the list is not where that says.
		return link{}, fmt.Errorf("parse interface %s with %d VFs: %w: %w", l.Name, l.numVFs, ErrTooManyVFs, err)
	}
	if err != nil {
		return link{}, fmt.Errorf("parse an interface: %w", err)
	}
	slices.Sort(l.AltNames)
	return l, nil
}

func (l *link) decode(kind int, v []byte) {
	text := func() string { return string(bytes.TrimRight(v, "\x00")) }
	number := func() uint32 {
		if len(v) < 4 {
			return 0
		}
		return binary.NativeEndian.Uint32(v)
	}
	switch kind {
	case unix.IFLA_IFNAME:
		l.Name = text()
	case unix.IFLA_PROP_LIST:
		names, err := parseAttributes(v)
		if err != nil {
			return
		}
		for _, n := range names {
			l.AltNames = append(l.AltNames, string(bytes.TrimRight(n.data, "\x00")))
		}
	case unix.IFLA_ADDRESS:
		if len(v) == len(l.MAC) {
			l.MAC = MAC(v)
		}
	case unix.IFLA_IFALIAS:
		l.Alias = text()
	case unix.IFLA_MTU:
		l.MTU = int(number())
	case unix.IFLA_MAX_MTU:
		l.MaxMTU = int(number())
	case unix.IFLA_GROUP:
		l.Group = number()
	case unix.IFLA_TXQLEN:
		l.TxQueueLen = number()
	case unix.IFLA_GSO_MAX_SIZE:
		l.GSOMaxSize = number()
	case unix.IFLA_GSO_MAX_SEGS:
		l.GSOMaxSegs = number()
	case unix.IFLA_GRO_MAX_SIZE:
		l.GROMaxSize = number()
	case unix.IFLA_GSO_IPV4_MAX_SIZE:
		l.GSOIPv4MaxSize = number()
	case unix.IFLA_GRO_IPV4_MAX_SIZE:
		l.GROIPv4MaxSize = number()
	case unix.IFLA_XDP:
		l.XDP = xdpModes(v)
	case unix.IFLA_PARENT_DEV_NAME:
		l.Address = text()
	case unix.IFLA_NUM_VF:
		l.numVFs = int(number())
	case unix.IFLA_VFINFO_LIST:
		l.vfs = v
	}
}

// xdpModes reads in which modes there are programs: the kernel names each.
func xdpModes(v []byte) (modes uint32) {
	attributes, err := parseAttributes(v)
	if err != nil {
		return 0
	}
	for _, a := range attributes {
		switch a.kind {
		case unix.IFLA_XDP_DRV_PROG_ID:
			modes |= unix.XDP_FLAGS_DRV_MODE
		case unix.IFLA_XDP_SKB_PROG_ID:
			modes |= unix.XDP_FLAGS_SKB_MODE
		case unix.IFLA_XDP_HW_PROG_ID:
			modes |= unix.XDP_FLAGS_HW_MODE
		}
	}
	return modes
}

// Get reads the interface with this index. The error wraps ErrNoDevice if there is none.
func (c *Conn) Get(index int) (Netdev, error) {
	c.Count.Others++
	l, err := c.one(index, 0)
	return l.Netdev, err
}

// Find looks for the interface of the device at a PCI address. The error wraps ErrNoDevice if it has none here. Of several
// (a switchdev PF has them) the one with the lowest index is given: the driver made it first.
func (c *Conn) Find(address string) (Netdev, error) {
	c.Count.Others++
	links, err := c.get(c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, 0, 0))
	if err != nil {
		return Netdev{}, fmt.Errorf("list the interfaces in %s: %w", c.ns.Path(), err)
	}
	var found Netdev
	for _, l := range links {
		if l.Address == address && (found.Index == 0 || l.Index < found.Index) {
			found = l.Netdev
		}
	}
	if found.Index == 0 {
		return Netdev{}, fmt.Errorf("%w: %s has none in %s", ErrNoDevice, address, c.ns.Path())
	}
	return found, nil
}

// HasName reports whether name is taken here, as a name or as an alternative name.
func (c *Conn) HasName(name string) (bool, error) {
	c.Count.Others++
	r := c.request(unix.RTM_GETLINK, unix.NLM_F_REQUEST, 0, 0, 0)
	// IFLA_ALT_IFNAME finds both kinds of names.
	r.AddData(nl.NewRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(name)))
	_, err := c.get(r)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for an interface %q in %s: %w", name, c.ns.Path(), err)
	}
	return true, nil
}
