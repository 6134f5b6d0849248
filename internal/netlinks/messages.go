package netlinks

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dumpLinks asks without RTEXT_FILTER_VF, which the library's own list sets: every PF would be asked for all of its VFs,
// and answers that are too long for an attribute are cut off.
func dumpLinks(set func(index int, i *iface)) error {
	return retryDump(func() error {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return eachLink(request, set)
	})
}

// getLink asks for one interface. The error is the kernel's: unix.ENODEV if there is none.
func getLink(index int, set func(index int, i *iface)) error {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	which := nl.NewIfInfomsg(unix.AF_UNSPEC)
	which.Index = int32(index) //nolint:gosec // it came from the kernel
	request.AddData(which)
	return eachLink(request, set)
}

func eachLink(request *nl.NetlinkRequest, set func(index int, i *iface)) error {
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return err
	}
	for _, m := range messages {
		index, i, err := parseLink(m)
		if err != nil {
			return err
		}
		set(index, i)
	}
	return nil
}

// parseLink reads what follows the header in RTM_NEWLINK. i is nil for what does not describe the interface: a wireless
// interface's driver sends such messages of its own events.
func parseLink(m []byte) (index int, i *iface, err error) {
	link, err := netlink.LinkDeserialize(nil, m)
	if err != nil {
		return 0, nil, fmt.Errorf("read the kernel's message about an interface: %w", err)
	}
	a := link.Attrs()
	if a.TxQLen < 0 { // the library's default: the kernel sends it always
		return a.Index, nil, nil
	}
	return a.Index, &iface{
		NodeLink: NodeLink{Name: a.Name, AltNames: a.AltNames, Up: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_UP != 0},
		kind:     link.Type(), master: a.MasterIndex, parent: a.ParentIndex,
		foreign: a.NetNsID >= 0, // with a namespace id, the parent's index is one of that other namespace
	}, nil
}

// retryDump repeats a dump that a change interrupted, for such an answer may lack what was there all the time. After ten of
// them it is an error, which wraps netlink.ErrDumpInterrupted: whoever knows an older answer stays with that and looks later.
func retryDump(dump func() error) (err error) {
	for range 10 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// linkBuffer holds what the kernel says while everything is read: thousands of VFs that are made or set up at once are some
// thousand messages of about a kilobyte.
const linkBuffer = 4 << 20

// Watch collects what the kernel says of interfaces, addresses and routes in the calling thread's network namespace, and calls
// changed when there is something for Update. It returns when ctx ends, without an error, or when the socket breaks.
func (l *Links) Watch(ctx context.Context, changed func()) error {
	defer l.watches(false)
	for {
		err := l.watchOnce(ctx, changed)
		// Messages were dropped, and older ones wait in the socket, which would undo what is read now: begin anew without.
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

// watches notes whether somebody listens from now on. What happened before is not known either way.
func (l *Links) watches(now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watching, l.news = now, news{all: true}
}

func (l *Links) watchOnce(ctx context.Context, changed func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP)
	if err != nil {
		return fmt.Errorf("subscribe to changes of the node's interfaces: %w", err)
	}
	defer socket.Close()
	size := l.buffer
	if size == 0 {
		size = linkBuffer
	}
	// Beyond net.core.rmem_max only with CAP_NET_ADMIN. What is refused here shows as lost messages later.
	if socket.SetReceiveBufferSize(size, true) != nil {
		_ = socket.SetReceiveBufferSize(size, false)
	}
	defer context.AfterFunc(ctx, socket.Close)() // which wakes a receive; one with a time-out would cost an idle node 64 KiB each time
	l.watches(true)
	changed()
	return l.follow(ctx, socket, changed)
}

func (l *Links) follow(ctx context.Context, socket *nl.NetlinkSocket, changed func()) error {
	for ctx.Err() == nil {
		messages, from, err := socket.Receive()
		switch {
		case errors.Is(err, unix.EINTR), ctx.Err() != nil:
		case err != nil:
			return fmt.Errorf("receive changes of the node's interfaces: %w", err)
		case from.Pid != 0: // only the kernel has port 0: what another process sends here is not believed
		default:
			if l.note(messages) {
				changed()
			}
		}
	}
	return nil
}

// note keeps what matters, and reports whether anything does.
func (l *Links) note(messages []syscall.NetlinkMessage) (matters bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		matters = l.news.add(m) || matters
	}
	return matters
}

func (n *news) add(m syscall.NetlinkMessage) (matters bool) {
	// The family is the first byte of all: struct ifinfomsg, ifaddrmsg, rtmsg, nhmsg.
	if len(m.Data) < 8 {
		return false // no such message is as short
	}
	switch family := m.Data[0]; m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A bridge says of its ports what they are to it, with its own family: that one left it, not that it is gone.
		return family == unix.AF_UNSPEC && n.addLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// Each interface that goes up or down has a link-local address that comes or goes.
		const scope = 3
		if family == unix.AF_INET6 && m.Data[scope] >= unix.RT_SCOPE_LINK {
			return false
		}
		n.addresses, n.routes = true, n.routes || m.Header.Type == unix.RTM_DELADDR
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// A node with an overlay network sees many that cannot make or unmake an uplink.
		const prefixLength = 1
		if m.Data[prefixLength] > 1 {
			return false
		}
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
	default:
		return false
	}
	n.routes = true
	return true
}

func (n *news) addLink(m syscall.NetlinkMessage) (matters bool) {
	index, i, err := parseLink(m.Data)
	switch {
	case err != nil:
		n.all = true
		return true
	case m.Header.Type == unix.RTM_DELLINK:
		i = nil
	case i == nil:
		return false
	}
	if n.links == nil {
		n.links = map[int]*iface{}
	}
	n.links[index] = i
	return true
}
