package netlinks

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/nexthop.h; nlaMask takes the flag bits off an attribute's type.
const (
	sizeofNhmsg = 8 // family, scope, protocol, reserved, u32 flags
	nhaOIF      = 5 // NHA_OIF, u32: the interface
	nlaMask     = 0x3fff
)

// viaObject reports whether a route names a next-hop object and nothing else. Routing daemons make such routes, and with
// net.ipv4.nexthop_compat_mode=0 the kernel does not say which interface they lead to.
func viaObject(r netlink.Route) bool { return r.LinkIndex == 0 && len(r.MultiPath) == 0 }

// nexthopLinks gives the interfaces of all next-hop objects, groups' members among them: the library does not tell which
// object a route names, so all have to count.
func nexthopLinks() (links []int, err error) {
	err = retryDump(func() error {
		links = nil
		request := nl.NewNetlinkRequest(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP)
		request.AddRawData(make([]byte, sizeofNhmsg))
		messages, failed := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEXTHOP)
		if failed != nil {
			return fmt.Errorf("list the next-hop objects: %w", failed)
		}
		for _, m := range messages {
			for kind, value := range nexthopAttributes(m) {
				if kind == nhaOIF && len(value) >= 4 {
					links = append(links, int(binary.NativeEndian.Uint32(value)))
				}
			}
		}
		return nil
	})
	return links, err
}

func nexthopAttributes(m []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b := m[min(sizeofNhmsg, len(m)):]; len(b) >= unix.SizeofRtAttr; {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return // the kernel sends none such
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&nlaMask, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
		}
	}
}
