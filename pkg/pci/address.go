package pci

import (
	"errors"
	"fmt"
)

// ErrAddress means that a string is no PCI address; test with errors.Is.
var ErrAddress = errors.New("invalid PCI address")

// An Address is where a PCI function sits: domain, bus, device, function. It is comparable, and the zero Address is
// 0000:00:00.0, which belongs to the host bridge and never to a device of ours.
type Address struct {
	Domain                uint32 // 16 bits on most machines; Intel's VMD numbers its domains from 0x10000
	Bus, Device, Function uint8
}

// ParseAddress reads the full form dddd:bb:dd.f, in hexadecimal of either case, the domain with 4 to 8 digits. The short
// form without a domain is refused: which domain is meant would be a guess. The error wraps ErrAddress.
func ParseAddress(s string) (Address, error) {
	bad := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("%w %q: %s", ErrAddress, s, why)
	}
	// Counted from the end, because only the domain's length varies: "…:bb:dd.f" is 8 bytes after the domain.
	n := len(s) - 8
	if n < 4 || n > 8 || s[n] != ':' || s[n+3] != ':' || s[n+6] != '.' {
		return bad("want domain:bus:device.function such as 0000:3b:02.0")
	}
	domain, ok1 := parseHex(s[:n])
	bus, ok2 := parseHex(s[n+1 : n+3])
	device, ok3 := parseHex(s[n+4 : n+6])
	function, ok4 := parseHex(s[n+7:])
	switch {
	case !ok1 || !ok2 || !ok3 || !ok4:
		return bad("it holds something that is no hexadecimal digit")
	case n > 4 && s[0] == '0':
		return bad("a domain of more than 4 digits must not start with 0")
	case device > 0x1f:
		return bad("a device number is at most 1f")
	case function > 7:
		return bad("a function number is at most 7")
	}
	return Address{Domain: domain, Bus: uint8(bus), Device: uint8(device), Function: uint8(function)}, nil
}

// parseHex reads up to 8 hexadecimal digits and nothing else: strconv would take a sign and underscores, too.
func parseHex(s string) (v uint32, ok bool) {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(c)
	}
	return v, true
}

// String gives the form that sysfs uses: lower case, the domain with at least 4 digits.
func (a Address) String() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 16)
	for shift := 28; shift >= 0; shift -= 4 {
		if d := a.Domain >> shift; d != 0 || shift < 16 {
			b = append(b, digits[d&0xf])
		}
	}
	b = append(b, ':', digits[a.Bus>>4], digits[a.Bus&0xf], ':', digits[a.Device>>4], digits[a.Device&0xf], '.', digits[a.Function&0xf])
	return string(b)
}

// Compare orders addresses as lspci lists them.
func (a Address) Compare(b Address) int {
	if a.Domain != b.Domain {
		if a.Domain < b.Domain {
			return -1
		}
		return 1
	}
	return a.routingID() - b.routingID()
}

// routingID is the 16-bit number by which the SR-IOV capability counts VFs: first VF offset and stride are added to it.
func (a Address) routingID() int {
	return int(a.Bus)<<8 | int(a.Device)<<3 | int(a.Function)
}

// MarshalText makes an Address a JSON string, and a JSON key.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress for JSON.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAddress(string(text))
	return err
}
