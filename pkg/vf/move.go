package vf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An Arrival is what an interface is to have where it is moved to. Zero values leave a thing as it is, which for Up means
// down: every move sets an interface down.
type Arrival struct {
	Name string
	MTU  int
	Up   bool
}

// Move takes the interface with this index from c's namespace to to's, in one message that also renames it and sets what
// else the Arrival says. It takes its addresses and routes away, and sets it down.
//
// It is not atomic. An error may come before the move (the errors wrap ErrExists: its present name and Name, or one of its
// alternative names, is taken there) or after it (Name or MTU is refused there), so after an error look in both namespaces
// with Find. A MAC is not part of it: that is the one thing that drivers refuse for reasons of their own, see SetMAC.
func (c *Conn) Move(index int, to *Conn, a Arrival) error {
	c.Count.Moves++
	var up uint32
	if a.Up {
		up = unix.IFF_UP
	}
	r := c.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, index, up, unix.IFF_UP)
	c.attr(r, unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.ns.Fd())))
	if a.Name != "" {
		c.attr(r, unix.IFLA_IFNAME, nl.ZeroTerminated(a.Name))
	}
	if a.MTU != 0 {
		c.attr(r, unix.IFLA_MTU, nl.Uint32Attr(uint32(a.MTU)))
	}
	if err := c.set(r); err != nil {
		return &Refused{
			Device:    fmt.Sprintf("interface %d in %s", index, c.ns.Path()),
			Attribute: "namespace", Value: fmt.Sprintf("%s, name %q, MTU %d", to.ns.Path(), a.Name, a.MTU), Err: err,
		}
	}
	return nil
}

// Down sets the interface down.
func (c *Conn) Down(index int) error {
	c.Count.Others++
	err := c.set(c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, index, 0, unix.IFF_UP))
	if err != nil {
		return &Refused{Device: fmt.Sprintf("interface %d in %s", index, c.ns.Path()), Attribute: "link", Value: "down", Err: err}
	}
	return nil
}

// SetMAC sets the interface's own MAC. The error wraps ErrAddress if the PF does not let the VF have it: igb lets an
// untrusted VF choose only while no MAC is set on the PF, not even to choose the one that is set there.
func (c *Conn) SetMAC(index int, m MAC) error {
	c.Count.Others++
	r := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, index, 0, 0)
	c.attr(r, unix.IFLA_ADDRESS, m[:])
	if err := c.set(r); err != nil {
		return &Refused{Device: fmt.Sprintf("interface %d in %s", index, c.ns.Path()), Attribute: "mac", Value: m.String(), Err: err}
	}
	return nil
}

// DropAltNames takes alternative names from an interface except those to keep: a name that somebody in a pod gave it could
// be taken in the namespace it is to be moved to.
func (c *Conn) DropAltNames(dev Netdev, keep []string) error {
	var drop []string
	for _, n := range dev.AltNames {
		if !slices.Contains(keep, n) {
			drop = append(drop, n)
		}
	}
	return c.altNames(unix.RTM_DELLINKPROP, dev.Index, drop)
}

func (c *Conn) altNames(kind, index int, names []string) error {
	if len(names) == 0 {
		return nil
	}
	c.Count.Others++
	r := c.request(kind, unix.NLM_F_ACK, index, 0, 0)
	if kind == unix.RTM_NEWLINKPROP {
		r.Flags |= unix.NLM_F_CREATE | unix.NLM_F_APPEND | unix.NLM_F_EXCL
	}
	list := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	for _, n := range names {
		list.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(n))
	}
	r.AddData(list)
	if err := c.set(r); err != nil {
		return &Refused{Device: fmt.Sprintf("interface %d in %s", index, c.ns.Path()), Attribute: "alternative names", Value: fmt.Sprint(names), Err: err}
	}
	return nil
}

// Reset gives an interface back everything that want says, down to up or down, and returns it as it is then. It tries
// everything; the errors are joined. What is as wanted already is left alone, so an untouched interface costs one read.
func (c *Conn) Reset(dev, want Netdev) (Netdev, error) {
	var errs []error
	// Down first, while it has to change: several drivers refuse a rename, a MAC or an MTU while up.
	if dev.Up && needsDown(dev, want) {
		errs = append(errs, c.Down(dev.Index))
		dev.Up = false
	}
	errs = append(errs, c.DropAltNames(dev, want.AltNames))
	for _, s := range resetSteps(dev, want) {
		c.Count.Others++
		r := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, dev.Index, s.flags, s.change)
		if s.kind != 0 {
			c.attr(r, s.kind, s.data)
		}
		if err := c.set(r); err != nil {
			errs = append(errs, &Refused{Device: fmt.Sprintf("interface %s (index %d)", dev.Name, dev.Index), Attribute: s.name, Value: s.value, Err: err})
		}
	}
	var missing []string
	for _, n := range want.AltNames {
		if !slices.Contains(dev.AltNames, n) {
			missing = append(missing, n)
		}
	}
	errs = append(errs, c.altNames(unix.RTM_NEWLINKPROP, dev.Index, missing))
	now, err := c.Get(dev.Index)
	return now, errors.Join(append(errs, err)...)
}

func needsDown(dev, want Netdev) bool {
	return dev.Name != want.Name || dev.MAC != want.MAC || dev.MTU != want.MTU || !want.Up
}

// A step is one attribute or one set of flags of an RTM_SETLINK. They are sent apart: a refused one must not keep the next
// from being set.
type step struct {
	name, value   string
	kind          int
	data          []byte
	flags, change uint32
}

func resetSteps(dev, want Netdev) []step {
	var steps []step
	add := func(differs bool, name string, value any, kind int, data []byte) {
		if differs {
			steps = append(steps, step{name: name, value: fmt.Sprint(value), kind: kind, data: data})
		}
	}
	u32 := nl.Uint32Attr
	// Programs first: drivers refuse an MTU that one of them could not handle.
	for _, mode := range []uint32{unix.XDP_FLAGS_HW_MODE, unix.XDP_FLAGS_DRV_MODE, unix.XDP_FLAGS_SKB_MODE} {
		none := nl.NewRtAttr(unix.IFLA_XDP_FD, u32(^uint32(0))).Serialize()
		add(dev.XDP&mode != 0 && want.XDP&mode == 0, "xdp", "none", unix.IFLA_XDP,
			append(none, nl.NewRtAttr(unix.IFLA_XDP_FLAGS, u32(mode)).Serialize()...))
	}
	add(dev.Name != want.Name, "name", want.Name, unix.IFLA_IFNAME, nl.ZeroTerminated(want.Name))
	add(dev.MAC != want.MAC && !want.MAC.IsZero(), "mac", want.MAC, unix.IFLA_ADDRESS, want.MAC[:])
	add(dev.MTU != want.MTU && want.MTU != 0, "mtu", want.MTU, unix.IFLA_MTU, u32(uint32(want.MTU)))
	add(dev.Alias != want.Alias, "alias", want.Alias, unix.IFLA_IFALIAS, []byte(want.Alias))
	add(dev.Group != want.Group, "group", want.Group, unix.IFLA_GROUP, u32(want.Group))
	add(dev.TxQueueLen != want.TxQueueLen, "txqueuelen", want.TxQueueLen, unix.IFLA_TXQLEN, u32(want.TxQueueLen))
	add(dev.GSOMaxSize != want.GSOMaxSize && want.GSOMaxSize != 0, "gso_max_size", want.GSOMaxSize, unix.IFLA_GSO_MAX_SIZE, u32(want.GSOMaxSize))
	add(dev.GSOMaxSegs != want.GSOMaxSegs && want.GSOMaxSegs != 0, "gso_max_segs", want.GSOMaxSegs, unix.IFLA_GSO_MAX_SEGS, u32(want.GSOMaxSegs))
	add(dev.GROMaxSize != want.GROMaxSize && want.GROMaxSize != 0, "gro_max_size", want.GROMaxSize, unix.IFLA_GRO_MAX_SIZE, u32(want.GROMaxSize))
	// The kernel sets these two with those above (netif_set_gso_max_size and its twin), so they come after them.
	add((dev.GSOIPv4MaxSize != want.GSOIPv4MaxSize || dev.GSOMaxSize != want.GSOMaxSize) && want.GSOIPv4MaxSize != 0, "gso_ipv4_max_size", want.GSOIPv4MaxSize, unix.IFLA_GSO_IPV4_MAX_SIZE, u32(want.GSOIPv4MaxSize))
	add((dev.GROIPv4MaxSize != want.GROIPv4MaxSize || dev.GROMaxSize != want.GROMaxSize) && want.GROIPv4MaxSize != 0, "gro_ipv4_max_size", want.GROIPv4MaxSize, unix.IFLA_GRO_IPV4_MAX_SIZE, u32(want.GROIPv4MaxSize))
	var flags, change uint32
	flag := func(is, should bool, bit uint32) {
		if is != should {
			change |= bit
			if should {
				flags |= bit
			}
		}
	}
	flag(dev.Promisc, want.Promisc, unix.IFF_PROMISC)
	flag(dev.AllMulti, want.AllMulti, unix.IFF_ALLMULTI)
	flag(dev.NoARP, want.NoARP, unix.IFF_NOARP)
	flag(!dev.NoMulticast, !want.NoMulticast, unix.IFF_MULTICAST)
	flag(dev.Up, want.Up, unix.IFF_UP)
	if change != 0 {
		steps = append(steps, step{name: "flags", value: fmt.Sprintf("%#x of %#x", flags, change), flags: flags, change: change})
	}
	return steps
}
