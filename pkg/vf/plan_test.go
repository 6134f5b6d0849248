package vf

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestPlan(t *testing.T) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	have := Settings{MAC: &mac, VLAN: &VLAN{ID: 100, Proto: Proto8021Q}, SpoofCheck: new(true), Rate: &Rate{Max: 10}, LinkState: new(LinkAuto)}
	tests := map[string]struct{ want, plan Settings }{
		"nothing wanted":            {Settings{}, Settings{}},
		"all as wanted":             {have, Settings{}},
		"one differs":               {Settings{SpoofCheck: new(false), LinkState: new(LinkAuto)}, Settings{SpoofCheck: new(false)}},
		"not reported":              {Settings{Trust: new(false)}, Settings{Trust: new(false)}},
		"only the QoS differs":      {Settings{VLAN: &VLAN{ID: 100, QoS: 1, Proto: Proto8021Q}}, Settings{VLAN: &VLAN{ID: 100, QoS: 1, Proto: Proto8021Q}}},
		"only the protocol differs": {Settings{VLAN: &VLAN{ID: 100, Proto: Proto8021AD}}, Settings{VLAN: &VLAN{ID: 100, Proto: Proto8021AD}}},
		"zero is a value":           {Settings{MAC: &MAC{}, Rate: &Rate{}}, Settings{MAC: &MAC{}, Rate: &Rate{}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.plan, Plan(have, tt.want)); d != "" {
				t.Error(d)
			}
			// What was planned and done leaves nothing to plan.
			if rest := Plan(have.With(Plan(have, tt.want)), tt.want); !rest.IsEmpty() {
				t.Errorf("still to do afterwards: %v", rest)
			}
		})
	}
}

func TestUnsettled(t *testing.T) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	tests := map[string]struct{ live, want, diff Settings }{
		"not reported passes":               {Settings{}, Settings{Trust: new(true), SpoofCheck: new(false)}, Settings{}},
		"a zero MAC takes any":              {Settings{MAC: &mac}, Settings{MAC: &MAC{}}, Settings{}},
		"a MAC does not":                    {Settings{MAC: &MAC{}}, Settings{MAC: &mac}, Settings{MAC: &mac}},
		"802.1ad reported as 802.1Q":        {Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021Q}}, Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021AD}}, Settings{}},
		"another VLAN":                      {Settings{VLAN: &VLAN{ID: 6, Proto: Proto8021Q}}, Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021AD}}, Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021AD}}},
		"802.1ad still there, not wanted":   {Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021AD}}, Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021Q}}, Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021Q}}},
		"trust on that should be off stays": {Settings{Trust: new(true)}, Settings{Trust: new(false)}, Settings{Trust: new(false)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.diff, unsettled(tt.live, tt.want)); d != "" {
				t.Error(d)
			}
		})
	}
}

// all are settings with every attribute.
func all(proto Proto) Settings {
	return Settings{
		MAC: &MAC{2, 0, 0, 0, 0, 9}, VLAN: &VLAN{ID: 4094, QoS: 7, Proto: proto}, Rate: &Rate{Min: 5, Max: 1000},
		SpoofCheck: new(false), LinkState: new(LinkDisable), Trust: new(true),
	}
}

// What is encoded for the kernel is decoded from it again, of the right VF among several.
func TestMessageRoundTrip(t *testing.T) {
	for _, proto := range []Proto{Proto8021Q, Proto8021AD} {
		list := append(infoOf(Defaults(), 0), infoOf(all(proto), 1)...)
		got, err := parseVFInfo(list, 1)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(all(proto), got); d != "" {
			t.Errorf("%v: %s", proto, d)
		}
		if _, err := parseVFInfo(list, 2); !errors.Is(err, ErrNoVF) {
			t.Errorf("VF 2 of 2: %v, want ErrNoVF", err)
		}
		for n := range list {
			_, _ = parseVFInfo(list[:n], 1) // must not panic
		}
	}
}

func infoOf(s Settings, index int) []byte {
	return vfInfoList(s.attributes(index)).Serialize()[unix.SizeofRtAttr:]
}

// The bytes of one message, as the kernel's own tools send them.
func TestMessageBytes(t *testing.T) {
	b := binary.NativeEndian
	const header, vlan, trust = 4, 12, 8
	const info = header + header + vlan + header + trust
	want := b.AppendUint16(nil, header+info)
	want = b.AppendUint16(want, unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED)
	want = b.AppendUint16(want, info)
	want = b.AppendUint16(want, nl.IFLA_VF_INFO|unix.NLA_F_NESTED)
	want = b.AppendUint16(want, header+vlan)
	want = b.AppendUint16(want, nl.IFLA_VF_VLAN)
	for _, v := range []uint32{3, 100, 5} {
		want = b.AppendUint32(want, v)
	}
	want = b.AppendUint16(want, header+trust)
	want = b.AppendUint16(want, nl.IFLA_VF_TRUST)
	for _, v := range []uint32{3, 1} {
		want = b.AppendUint32(want, v)
	}
	s := Settings{VLAN: &VLAN{ID: 100, QoS: 5, Proto: Proto8021Q}, Trust: new(true)}
	if d := cmp.Diff(want, vfInfoList(s.attributes(3)).Serialize()); d != "" {
		t.Error(d)
	}
}

// A driver that does not say: the kernel puts all ones there.
func TestUnreported(t *testing.T) {
	var s Settings
	s.decode(attrTrust, encode32(0, unreported))
	s.decode(attrSpoofCheck, encode32(0, unreported))
	if !s.IsEmpty() {
		t.Errorf("got %v, want nothing", s)
	}
}

func TestRefused(t *testing.T) {
	tests := map[unix.Errno]error{
		unix.EOPNOTSUPP: ErrUnsupported, unix.EPROTONOSUPPORT: ErrUnsupported, unix.Errno(524): ErrUnsupported, unix.EINVAL: ErrInvalid,
		unix.EBUSY: ErrBusy, unix.EPERM: ErrPermission, unix.ENODEV: ErrNoDevice, unix.EEXIST: ErrExists, unix.EADDRNOTAVAIL: ErrAddress,
	}
	for errno, sentinel := range tests {
		err := error(&Refused{Device: "VF 3 of 0000:02:00.0", Attribute: "trust", Value: "on", Err: errno})
		if !errors.Is(err, sentinel) || !errors.Is(err, errno) {
			t.Errorf("%v is not %v and %v", err, sentinel, errno)
		}
	}
}

// Each attribute knows which part of the settings it is.
func TestAttributeParts(t *testing.T) {
	for _, want := range []Settings{all(Proto8021Q), all(Proto8021AD)} {
		var got Settings
		for _, a := range want.attributes(3) {
			if alone := a.part.attributes(3); len(alone) != 1 || alone[0].name != a.name {
				t.Errorf("the part of %s is %v", a.name, a.part)
			}
			got = got.With(a.part)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestJSON(t *testing.T) {
	want := all(Proto8021AD)
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Settings
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), vfInfoList(all(Proto8021Q).attributes(0)).Serialize()...))
	// The last attribute has 10 bytes, and no padding to 12.
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), 10, 0, unix.IFLA_IFNAME, 0, 'e', 't', 'h', '1', '0', 0))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if l, err := parseLink(b); err == nil {
			_, _ = parseVFInfo(l.vfs, 0)
		}
	})
}
