// Package vf reads and sets one SR-IOV virtual function (VF): what its physical function (PF) enforces on it, and its
// network interface. It moves the interface into another network namespace and back.
//
// A VF has two sides. The PF's driver holds an entry for each VF (MAC, VLAN, spoof check, trust, rates, link state): that
// is Settings, read with Conn.Read and set with Conn.Write and Conn.Settle through the PF's interface in the host. The VF's
// own interface, if its driver makes one, is a Netdev: Conn.Find, Conn.Move, Conn.Reset. It is found by its PCI address
// wherever it is, since its name is not ours: udev renames it, and so may whoever has it.
//
// What is to be set is planned before it is set (Plan, which is pure), set in one message (Conn.Write), and looked at until
// it is there (Conn.Settle), since some drivers apply it in their own time. To put back, everything is tried
// (Conn.WriteEach, Conn.Reset). ReadTuning and ResetTuning do the same for what ethtool sets. The example shows a VF on its
// way into a network namespace and back.
//
// A Conn belongs to one network namespace and works from every thread: nothing here changes the namespace of the caller's
// thread. It asks again what a signal or a change under the kernel's hands cut off. Everything needs CAP_NET_ADMIN, in the
// user namespace that owns the network namespace.
//
// What a driver or the kernel did not set is a *Refused, which names the attribute, and wraps the errno and, where that has a
// meaning here, one of the package's sentinels. What could not be read wraps the errno, and the sentinels that are named there.
package vf

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
)

// A PF is the interface through which a physical function's VFs are set.
type PF struct {
	Address string // PCI address, such as 0000:02:00.0
	Index   int    // interface index in the namespace of the Conn
}

// A MAC is an Ethernet address. As an entry on the PF, the zero MAC means that the VF may choose its own.
type MAC [6]byte

// ErrMAC means that a string is no Ethernet address.
var ErrMAC = errors.New("not an Ethernet address")

// ParseMAC reads the forms xx:xx:xx:xx:xx:xx, xx-…, xxxx.xxxx.xxxx. The error wraps ErrMAC.
func ParseMAC(s string) (MAC, error) {
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != 6 {
		return MAC{}, fmt.Errorf("%w: %q, want six bytes such as 02:00:00:00:00:01", ErrMAC, s)
	}
	return MAC(a), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether m is all zeros.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether an interface can have m: not a group address, not zero.
func (m MAC) IsUnicast() bool { return m[0]&1 == 0 && !m.IsZero() }

// MarshalText makes a MAC a JSON string.
func (m MAC) MarshalText() ([]byte, error) {
	return []byte(m.String()), nil
}

// UnmarshalText is ParseMAC for JSON. It takes only what MarshalText gives.
func (m *MAC) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(bytes.ReplaceAll(text, []byte{':'}, nil)))
	if err != nil || len(raw) != len(m) {
		return fmt.Errorf("%w: %q", ErrMAC, text)
	}
	*m = MAC(raw)
	return nil
}

// A Proto is the protocol of a VLAN tag: its EtherType.
type Proto uint16

// The two that the kernel knows.
const (
	Proto8021Q  Proto = 0x8100
	Proto8021AD Proto = 0x88a8
)

func (p Proto) String() string {
	switch p {
	case Proto8021Q:
		return "802.1q"
	case Proto8021AD:
		return "802.1ad"
	}
	return fmt.Sprintf("protocol %#04x", uint16(p))
}

// A VLAN is the tag that the PF puts on a VF's frames. The zero ID is none: the VF may tag for itself.
type VLAN struct {
	ID    uint16 `json:"id"`
	QoS   uint8  `json:"qos,omitempty"`
	Proto Proto  `json:"proto"`
}

func (v VLAN) String() string { return fmt.Sprintf("%d, QoS %d, %v", v.ID, v.QoS, v.Proto) }

// Untagged is no VLAN.
var Untagged = VLAN{Proto: Proto8021Q}

// A Rate limits what a VF sends, in Mbit/s; 0 is no limit. The kernel sets the two together.
type Rate struct {
	Min uint32 `json:"min"`
	Max uint32 `json:"max"`
}

func (r Rate) String() string { return fmt.Sprintf("%d…%d Mbit/s", r.Min, r.Max) }

// A LinkState says what link a VF sees.
type LinkState uint32

// As in IFLA_VF_LINK_STATE_….
const (
	LinkAuto    LinkState = iota // the PF's
	LinkEnable                   // always up: VFs of one PF reach each other without a cable
	LinkDisable                  // always down
)

func (l LinkState) String() string {
	switch l {
	case LinkAuto:
		return "auto"
	case LinkEnable:
		return "enable"
	case LinkDisable:
		return "disable"
	}
	return fmt.Sprintf("link state %d", uint32(l))
}

// Settings are a VF's entry on its PF, or a part of it. As what was read, nil means that the driver does not say; of VLAN, rate
// and link state the kernel itself says none, 0 and auto where the driver is silent (rtnl_fill_vfinfo). As what is wanted, nil
// means to leave it.
type Settings struct {
	MAC        *MAC       `json:"mac,omitempty"`
	VLAN       *VLAN      `json:"vlan,omitempty"`
	Rate       *Rate      `json:"rate,omitempty"`
	SpoofCheck *bool      `json:"spoofCheck,omitempty"`
	LinkState  *LinkState `json:"linkState,omitempty"`
	Trust      *bool      `json:"trust,omitempty"`
}

// Defaults are what a VF of unknown history is safe with: it may choose its MAC, has no VLAN and no privilege.
func Defaults() Settings {
	return Settings{
		MAC: new(MAC), VLAN: new(Untagged), Rate: new(Rate), SpoofCheck: new(true), LinkState: new(LinkAuto), Trust: new(false),
	}
}

// DefaultsFor is Defaults for the VFs of a PF with this driver. NVIDIA's compare what a VF sends with the MAC that the PF has set
// for it: where that is zero mlx5 drops everything (esw/acl/ingress_lgcy.c), and mlx4 refuses the spoof check. Their own default
// is off.
func DefaultsFor(pfDriver string) Settings {
	s := Defaults()
	if pfDriver == "mlx5_core" || pfDriver == "mlx4_core" {
		s.SpoofCheck = new(false)
	}
	return s
}
