package network

import (
	"net"
	"net/netip"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

// No regular expressions: the CNI plugin links this package for its types, and starts for every sandbox. Preparing one, and the
// tables of package regexp itself, would be a tenth of what that start takes.

const (
	lower = "abcdefghijklmnopqrstuvwxyz"
	digit = "0123456789"
	alnum = digit + lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// only reports whether s is of the characters alone.
func only(s, characters string) bool {
	for i := range len(s) { // by bytes: what is not ASCII is in no set
		if strings.IndexByte(characters, s[i]) < 0 {
			return false
		}
	}
	return true
}

// starts reports whether s is one of first and then of first and more.
func starts(s, first, more string) bool {
	return s != "" && only(s[:1], first) && only(s[1:], first+more)
}

// framed is starts for what also ends with one of first.
func framed(s, first, more string) bool {
	return starts(s, first, more) && only(s[len(s)-1:], first)
}

// isDomain reports whether s is of labels (RFC 1123) with dots between them; least is how many there must be.
func isDomain(s, characters string, least int) bool {
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !framed(label, characters, "-") {
			return false
		}
	}
	return len(labels) >= least
}

// isReverseDomain takes what starts as a domain does, such as a key that a project has set aside for itself: "example.com/key".
func isReverseDomain(s string) bool {
	domain, path, ok := strings.Cut(s, "/")
	return isDomain(domain, alnum, 2) && (!ok || path != "" && only(path, alnum+"-_."))
}

// isQualified takes an extended resource's name, such as "intel.com/sriov".
func isQualified(s string) bool {
	domain, name, ok := strings.Cut(s, "/")
	return ok && framed(domain, lower+digit, "-.") && framed(name, alnum, "-_.")
}

// parts reports whether s is of n parts with sep between them, each least to most of the characters long.
func parts(s, sep string, n, least, most int, characters string) bool {
	all := strings.Split(s, sep)
	for _, part := range all {
		if len(part) < least || len(part) > most || !only(part, characters) {
			return false
		}
	}
	return len(all) == n
}

func isVersion(s string) bool { return parts(s, ".", 3, 1, 3, digit) }

func isGUID(s string) bool { return parts(s, ":", 8, 2, 2, digit+"abcdefABCDEF") }

func isDevice(s string) bool { return starts(s, alnum, "_.:-") }

func checkNamespace(s string) *Error {
	if len(s) > 63 || !framed(s, lower+digit, "-") {
		return problem(BadNamespace, "write the namespace as kubectl shows it", "%s is not a namespace's name", quote(s))
	}
	return nil
}

func checkName(s string) *Error {
	if len(s) > 253 || !isDomain(s, lower+digit, 1) {
		return problem(BadName, "write the NetworkAttachmentDefinition's name as kubectl shows it, without capitals or slashes",
			"%s is not a definition's name", quote(s))
	}
	return nil
}

func checkClaim(s string) *Error {
	if len(s) > 253 || !isDomain(s, lower+digit, 1) {
		return problem(BadName, "write the IPAMClaim's name as kubectl shows it, without capitals or slashes", "%s is not an IPAMClaim's name", quote(s))
	}
	return nil
}

// checkIfName follows the kernel's dev_valid_name, and keeps the two names that every pod has. Of a name with '%' the kernel
// makes another: x%d becomes x0. It refuses two that stand for interfaces in its settings (sysctl_dev_name_is_allowed).
func checkIfName(s string) *Error {
	const remedy = "choose 1 to 15 letters, digits or punctuation, without spaces, '/', ':' and '%'"
	bad := s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '/' || r == ':' || r == '%'
	})
	if bad {
		return problem(BadInterface, remedy, "%s cannot be an interface's name", quote(s))
	}
	switch s {
	case "lo":
		return problem(BadInterface, "choose another name", "the name lo belongs to the pod's loopback interface")
	case "all", "default":
		return problem(BadInterface, "choose another name", "the name %s stands for many interfaces in the kernel's settings", s)
	}
	return nil
}

// checkMAC takes Ethernet addresses (6 bytes) and IPoIB ones (20).
func checkMAC(s string) *Error {
	hw, err := net.ParseMAC(s)
	if err != nil || (len(hw) != 6 && len(hw) != 20) {
		return problem(BadMAC, "write six bytes in hexadecimal, such as 02:00:00:00:00:01", "%s is not a MAC address", quote(s))
	}
	if len(hw) == 6 && [6]byte(hw) == [6]byte{} {
		return problem(BadMAC, "write another, such as 02:00:00:00:00:01", "%s is no address of an interface", quote(s))
	}
	if len(hw) == 6 && hw[0]&1 != 0 {
		return problem(BadMAC, "make the first byte even, such as 02", "%s is a multicast address, an interface needs a unicast one", quote(s))
	}
	return nil
}

// checkIP takes what an interface can have. With a prefix of no length its subnet would be all addresses: a default route
// that nobody has asked for.
func checkIP(s string) *Error {
	const remedy = "write an address with or without a prefix length, such as 192.0.2.10/24 or 2001:db8::10"
	addr, err := netip.ParseAddr(s)
	bits := addr.BitLen()
	if err != nil {
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(s)
		addr, bits = prefix.Addr(), prefix.Bits()
	}
	switch {
	case err != nil || addr.Zone() != "":
		return problem(BadIP, remedy, "%s is not an IP address", quote(s))
	case !isUnicast(addr) || bits == 0:
		return problem(BadIP, remedy, "%s is no address that an interface can have", quote(s))
	}
	return nil
}

// isUnicast reports whether the address can be that of one machine.
func isUnicast(addr netip.Addr) bool {
	addr = addr.Unmap()
	return !addr.IsUnspecified() && !addr.IsMulticast() && addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// checkGateway takes what a route can lead to.
func checkGateway(s string) *Error {
	err := checkAddress(s)
	if err != nil {
		return err
	}
	if addr := netip.MustParseAddr(s); !isUnicast(addr) || addr.Unmap().IsLoopback() {
		return problem(BadIP, "write the address of a router in the network's own subnet", "%s can be no gateway's address", quote(s))
	}
	return nil
}

// checkAddress takes an address alone.
func checkAddress(s string) *Error {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return problem(BadIP, "write an address alone, without a prefix length, such as 192.0.2.1 or 2001:db8::1",
			"%s is not an IP address", quote(s))
	}
	return nil
}

// checkNetworkName takes what can be a CNI network's name: it becomes part of paths.
func checkNetworkName(s string) *Error {
	if len(s) > 200 || !cni.IsName(s) {
		return problem(BadNetworkName, "use letters, digits, '.', '_' and '-'", "%s cannot be a CNI network's name", quote(s))
	}
	return nil
}

// checkPluginType keeps a definition from naming a program by path, and from delegating to a meta plugin: that would
// delegate again, without end.
func checkPluginType(s string) *Error {
	if len(s) > 128 || !cni.IsName(s) {
		return problem(BadPluginType, "write the name of a program in the CNI plugin folder, such as bridge", "%s is not a plugin's name", quote(s))
	}
	switch s {
	case "meta-cni", "multus", "multus-shim":
		return problem(SelfDelegation, "name the plugin that attaches the network", "%s would delegate to itself without end", quote(s))
	}
	return nil
}
