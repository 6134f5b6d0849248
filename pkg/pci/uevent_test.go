package pci

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseUevent(t *testing.T) {
	vf := Address{Bus: 2, Device: 0x10}
	tests := map[string]struct {
		message string
		want    Change
		ok      bool
	}{
		"driver bound": {
			"bind@/devices/pci0000:00/0000:00:02.0/0000:02:10.0|ACTION=bind|DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:02:10.0|SUBSYSTEM=pci|DRIVER=igbvf|SEQNUM=1",
			Change{Action: "bind", Subsystem: "pci", Address: vf},
			true,
		},
		"interface moved away": {
			"remove@/x|ACTION=remove|DEVPATH=/devices/pci0000:00/0000:02:10.0/net/eth5|SUBSYSTEM=net|INTERFACE=eth5",
			Change{Action: "remove", Subsystem: "net", Address: vf},
			true,
		},
		"auxiliary device": {
			"add@/x|ACTION=add|DEVPATH=/devices/pci0000:00/0000:02:10.0/mlx5_core.sf.2|SUBSYSTEM=auxiliary",
			Change{Action: "add", Subsystem: "auxiliary", Address: vf},
			true,
		},
		"not PCI":      {"add@/x|ACTION=add|DEVPATH=/devices/virtual/net/veth1|SUBSYSTEM=net", Change{Action: "add", Subsystem: "net"}, false},
		"udev's":       {"libudev|ACTION=add", Change{Action: "add"}, false},
		"empty":        {"", Change{}, false},
		"bridge alone": {"add@/x|DEVPATH=/devices/pci0000:00|SUBSYSTEM=pci", Change{Subsystem: "pci"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := parseUevent([]byte(strings.ReplaceAll(test.message, "|", "\x00")))
			if ok != test.ok {
				t.Errorf("ok is %v", ok)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/pci0000:00/0000:02:10.0/net/eth5\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/0000:02:10.0/net/eth5\x00SUBSYSTEM=net\x00"))
	f.Add([]byte("remove@/x\x00ACTION=remove\x00DEVPATH=/devices/pci10000:00/10000:02:10.0\x00SUBSYSTEM=pci"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Add([]byte("DEVPATH=0000:02:10.0//0000:02:10.1/\x00ACTION==\x00DEVPATH"))
	f.Fuzz(func(t *testing.T, message []byte) {
		c, ok := parseUevent(message)
		if !ok {
			return
		}
		if c.Action == "" || c.Lost {
			t.Errorf("%q: %+v", message, c)
		}
		// What it found in the path is there.
		if !strings.Contains(strings.ToLower(string(message)), c.Address.String()) {
			t.Errorf("%q has no %s", message, c.Address)
		}
	})
}
