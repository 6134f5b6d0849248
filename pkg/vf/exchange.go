package vf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Requests are sent here and not by the library, for what it does with the answer: it cuts one off at 64 KiB, which a PF
// with some hundred VFs outgrows; it does not come back to an answer that a signal cut off, and to send a move again is
// another thing; and it asks the runtime's poller about a socket that answers at once, which costs every ADD.

// answerSize is room for an answer: the kernel splits dumps at 32 KiB. One interface with all of its VFs comes whole.
const answerSize = 32 << 10

var (
	errInterrupted = errors.New("the kernel's list changed while it was read")
	errTooLong     = errors.New("the kernel's answer did not fit")
)

// exchange sends a request and hands each of its answers to each, without the netlink header; the bytes are good until the
// next exchange. The request has to ask for an acknowledgement or for something that is answered. With an errno come the
// kernel's own words, if it had some. After errInterrupted and errTooLong it is to be asked again.
func (c *Conn) exchange(r *nl.NetlinkRequest, each func(body []byte) error) error {
	c.seq++
	r.Seq = c.seq
	message := r.Serialize()
	_, err := uninterrupted(func() (int, error) {
		return 0, unix.Sendto(c.socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	a := answers{seq: c.seq, single: r.Flags&(unix.NLM_F_ACK|unix.NLM_F_DUMP) == 0, each: each}
	for !a.done {
		b, err := c.receive()
		if err != nil {
			return err
		}
		if err := a.read(b); err != nil {
			return err
		}
	}
	if a.interrupted {
		return errInterrupted
	}
	return a.err
}

// receive waits for the kernel's next datagram.
func (c *Conn) receive() ([]byte, error) {
	for {
		var from unix.Sockaddr
		n, err := uninterrupted(func() (n int, err error) {
			n, from, err = unix.Recvfrom(c.socket, c.buffer, unix.MSG_TRUNC)
			return n, err
		})
		if err != nil {
			return nil, fmt.Errorf("wait for the kernel's answer: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // another program's
		}
		if n > len(c.buffer) {
			c.buffer = make([]byte, n)
			return nil, errTooLong
		}
		return c.buffer[:n], nil
	}
}

func uninterrupted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// answers follows the messages that belong to one request.
type answers struct {
	seq         uint32
	single      bool // one message is all there is to come
	each        func(body []byte) error
	err         error // the first of each
	done        bool
	interrupted bool
}

// read takes a datagram. Its error is the request's answer, or that the datagram is none of the kernel's.
func (a *answers) read(b []byte) error {
	for len(b) >= unix.SizeofNlMsghdr && !a.done {
		size, kind := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint16(b[4:])
		flags, seq := binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return fmt.Errorf("netlink message of %d bytes, %d came", size, len(b))
		}
		body := b[unix.SizeofNlMsghdr:size]
		b = b[min(uint64(len(b)), (uint64(size)+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		if seq != a.seq {
			continue // to a request whose answer came too late
		}
		a.interrupted = a.interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			a.done = true
			return verdict(body, flags)
		}
		if a.each != nil && a.err == nil {
			a.err = a.each(body)
		}
		a.done = a.single && flags&unix.NLM_F_MULTI == 0
	}
	return nil
}

// verdict reads a struct nlmsgerr: the errno, the request that it is about, and attributes, one of which may be text.
func verdict(body []byte, flags uint16) error {
	if len(body) < 4 {
		return nil // the end of a dump
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == 0 {
		return nil
	}
	request := body[4:]
	if flags&unix.NLM_F_ACK_TLVS == 0 || len(request) < unix.SizeofNlMsghdr {
		return errno
	}
	skip := uint64(unix.SizeofNlMsghdr)
	if flags&unix.NLM_F_CAPPED == 0 {
		skip = (uint64(binary.NativeEndian.Uint32(request)) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
	}
	attributes, err := parseAttributes(request[min(skip, uint64(len(request))):])
	if err != nil {
		return errno
	}
	for _, a := range attributes {
		if a.kind == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", errno, unix.ByteSliceToString(a.data))
		}
	}
	return errno
}
