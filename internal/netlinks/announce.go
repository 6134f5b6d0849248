package netlinks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// carrierWait is how long an announcement waits for a link to send it over. An ADD must not take longer for the courtesy.
const carrierWait = 200 * time.Millisecond

// Announce tells the neighbours which MAC the addresses have now: gratuitous ARP, and unsolicited neighbour advertisements.
// Without carrier it leaves that to the kernel's arp_notify and ndisc_notify, and how says so.
func Announce(ctx context.Context, ns *netns.Netns, i Interface, ips []*types100.IPConfig) (how string, err error) {
	carrier, err := awaitCarrier(ctx, i)
	if err != nil {
		return "", err
	}
	if !carrier {
		err := errors.Join(setSysctl(ns, "ipv4", i.Name, "arp_notify", "1"), setSysctl(ns, "ipv6", i.Name, "ndisc_notify", "1"))
		return fmt.Sprintf("no carrier on %s within %v: by the kernel's arp_notify and ndisc_notify", i.Name, carrierWait), err
	}
	if len(i.MAC) != 6 || len(ips) == 0 {
		return "", nil // no Ethernet, or nothing to tell
	}
	// One socket for all: the kernel waits for an RCU grace period, some 20 ms, when a packet socket is closed.
	return "", ns.Do(func() error {
		// Protocol 0: a socket that only sends must not get a copy of all that is received.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("announce on %s: %w", i.Name, err)
		}
		defer unix.Close(fd)
		var errs []error
		for _, ip := range ips {
			if err := announce(fd, i, ip.Address.IP); err != nil {
				errs = append(errs, fmt.Errorf("announce %v on %s: %w", ip.Address.IP, i.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

func announce(fd int, i Interface, ip net.IP) error {
	frame, proto := unsolicitedNA(i.MAC, ip), uint16(unix.ETH_P_IPV6)
	if ip.To4() != nil {
		frame, proto = gratuitousARP(i.MAC, ip), unix.ETH_P_ARP
	}
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: proto<<8 | proto>>8, Halen: 6})
}

func awaitCarrier(ctx context.Context, i Interface) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	for {
		carrier, err := i.HasCarrier()
		if err != nil || carrier {
			return carrier, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ethernet(dst, src net.HardwareAddr, proto uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append([]byte{}, dst...), src...), proto)
}

// gratuitousARP is a request for one's own address (RFC 5227, an ARP announcement).
func gratuitousARP(mac net.HardwareAddr, ip net.IP) []byte {
	ip = ip.To4()
	b := ethernet(broadcast, mac, unix.ETH_P_ARP)
	// Ethernet, IPv4, address lengths 6 and 4, request.
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), ip...)
	return append(append(b, 0, 0, 0, 0, 0, 0), ip...)
}

// unsolicitedNA is a neighbour advertisement to all nodes with the override flag (RFC 4861, 7.2.6).
func unsolicitedNA(mac net.HardwareAddr, ip net.IP) []byte {
	allNodes := net.ParseIP("ff02::1")
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	icmp = append(icmp, ip.To16()...)
	icmp = append(append(icmp, 2, 1), mac...) // target link-layer address
	binary.BigEndian.PutUint16(icmp[2:], checksumICMPv6(ip.To16(), allNodes, icmp))

	b := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(icmp)))
	b = append(b, unix.IPPROTO_ICMPV6, 255) // a receiver drops any other hop limit
	b = append(append(b, ip.To16()...), allNodes...)
	return append(b, icmp...)
}

// checksumICMPv6 is the internet checksum over the pseudo header and the message.
func checksumICMPv6(src, dst net.IP, message []byte) uint16 {
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6), message...)
	var sum uint32
	for i := 0; i+1 < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
