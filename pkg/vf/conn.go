package vf

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// interruptTries is how often a dump that changed under the kernel's hands, or an answer that did not fit, is asked again.
const interruptTries = 20

// A Conn speaks rtnetlink inside one network namespace. It is for one goroutine at a time.
type Conn struct {
	ns     *netns.Netns
	socket int
	seq    uint32
	buffer []byte

	// Count tells what was sent so far, for tests and logs that care about the price of a change.
	Count Count
}

// A Count says how many requests a Conn sent. They cost very differently: a move some 25 ms, a PF read grows with the
// number of VFs.
type Count struct{ PFReads, PFWrites, Moves, Others int }

// NewConn makes a connection by the socket of ns, which must stay open as long as the Conn is used, and closes it. Make one Conn
// of a Netns, and use it from one goroutine at a time: two would take each other's answers.
func NewConn(ns *netns.Netns) (*Conn, error) {
	s, err := ns.Route()
	if err != nil {
		return nil, err
	}
	return &Conn{ns: ns, socket: s, buffer: make([]byte, answerSize)}, nil
}

// request starts a message about the interface index; flags and change are those of its ifinfomsg.
func (c *Conn) request(kind, flags, index int, up, change uint32) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(index), up, change
	r.AddData(m)
	return r
}

// set sends a request that only has to be acknowledged.
func (c *Conn) set(r *nl.NetlinkRequest) error { return c.exchange(r, nil) }

// get sends a request for interfaces. Their vfs are good until the next request.
func (c *Conn) get(r *nl.NetlinkRequest) (links []link, err error) {
	for range interruptTries {
		links = links[:0]
		err = c.exchange(r, func(body []byte) error {
			l, failed := parseLink(body)
			links = append(links, l)
			return failed
		})
		if !errors.Is(err, errInterrupted) && !errors.Is(err, errTooLong) {
			break
		}
	}
	return links, err
}

// one asks for a single interface, by index. Its vfs are good until the next request.
func (c *Conn) one(index int, mask uint32) (link, error) {
	r := c.request(unix.RTM_GETLINK, unix.NLM_F_REQUEST, index, 0, 0)
	if mask != 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(mask)))
	}
	links, err := c.get(r)
	if err != nil {
		return link{}, &Refused{Device: fmt.Sprintf("interface %d", index), Err: err}
	}
	if len(links) != 1 {
		return link{}, fmt.Errorf("read interface %d: the kernel answered with %d interfaces", index, len(links))
	}
	return links[0], nil
}

// poll is how long to wait before looking at something again that the kernel or a driver does in its own time.
const poll = 5 * time.Millisecond
