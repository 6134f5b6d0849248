package sriov

import (
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

var testVF = pci.Address{Domain: 0, Bus: 2, Device: 0x10, Function: 4}

func TestParse(t *testing.T) {
	base := func(change func(*Config)) Config {
		c := Config{CNIVersion: "1.0.0", Network: "n", Device: testVF}
		if change != nil {
			change(&c)
		}
		return c
	}
	tests := map[string]struct {
		conf, args string
		want       Config
	}{
		"only a device": {conf: `"deviceID":"0000:02:10.4"`, want: base(nil)},
		"pciBusID":      {conf: `"pciBusID":"0000:02:10.4"`, want: base(nil)},
		"the runtime's device counts": {
			conf: `"deviceID":"0000:02:10.0","runtimeConfig":{"deviceID":"0000:02:10.4"}`, want: base(nil),
		},
		"no version means 0.1.0": {
			conf: `"cniVersion":"","deviceID":"0000:02:10.4"`, want: base(func(c *Config) { c.CNIVersion = "0.1.0" }),
		},
		"everything": {
			conf: `"deviceID":"0000:02:10.4","vlan":100,"vlanQoS":3,"vlanProto":"802.1AD","mac":"02:00:00:00:00:01","spoofchk":"off",
				"trust":"on","link_state":"disable","min_tx_rate":1,"max_tx_rate":2,"mtu":9000,"ipam":{"type":"host-local"},"logLevel":"debug"`,
			want: base(func(c *Config) {
				c.VLAN, c.MAC = &vf.VLAN{ID: 100, QoS: 3, Proto: vf.Proto8021AD}, &vf.MAC{2, 0, 0, 0, 0, 1}
				c.SpoofCheck, c.Trust, c.LinkState = new(false), new(true), new(vf.LinkDisable)
				c.MinTxRate, c.MaxTxRate, c.MTU, c.IPAM, c.LogLevel = new(uint32(1)), new(uint32(2)), 9000, "host-local", "debug"
			}),
		},
		"VLAN 0 is set, no VLAN is left": {
			conf: `"deviceID":"0000:02:10.4","vlan":0,"vlanQoS":0`, want: base(func(c *Config) { c.VLAN = &vf.VLAN{Proto: vf.Proto8021Q} }),
		},
		"MAC of CNI_ARGS over the key": {
			conf: `"deviceID":"0000:02:10.4","mac":"02:00:00:00:00:01"`, args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=s;K8S_POD_NAME=p;MAC=02:00:00:00:00:02",
			want: base(func(c *Config) { c.MAC, c.Pod = &vf.MAC{2, 0, 0, 0, 0, 2}, "s/p" }),
		},
		"MAC of the runtime over CNI_ARGS": {
			conf: `"deviceID":"0000:02:10.4","mac":"02:00:00:00:00:01","runtimeConfig":{"mac":"02:00:00:00:00:03"}`, args: "MAC=02:00:00:00:00:02",
			want: base(func(c *Config) { c.MAC = &vf.MAC{2, 0, 0, 0, 0, 3} }),
		},
		"a pod's cni-args do not count": {
			conf: `"deviceID":"0000:02:10.4","spoofchk":"on","args":{"cni":{"spoofchk":"off","vlan":7}}`,
			want: base(func(c *Config) { c.SpoofCheck = new(true) }),
		},
		"unless the network lets them": {
			conf: `"deviceID":"0000:02:10.4","spoofchk":"on","allowPodOverrides":["vlan"],"args":{"cni":{"spoofchk":"off","vlan":7}}`,
			want: base(func(c *Config) { c.SpoofCheck, c.VLAN = new(true), &vf.VLAN{ID: 7, Proto: vf.Proto8021Q} }),
		},
		"rates of 0 are no limit": {
			conf: `"deviceID":"0000:02:10.4","min_tx_rate":5,"max_tx_rate":0`,
			want: base(func(c *Config) { c.MinTxRate, c.MaxTxRate = new(uint32(5)), new(uint32(0)) }),
		},
		"an empty list is a list": {
			conf: `"deviceID":"0000:02:10.4","cni.dev/valid-attachments":[]`,
			want: base(func(c *Config) { c.Valid, c.GCNamed = []types.GCAttachment{}, true }),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"sriov",`+tt.conf+`}`), tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct {
		conf, args string
		code       uint
		words      string
	}{
		"device":              {`"deviceID":"02:10.4"`, "", 7, "deviceID"},
		"device of a path":    {`"deviceID":"../../etc"`, "", 7, "deviceID"},
		"vlan 4095":           {`"vlan":4095`, "", 7, "vlan: 4095"},
		"vlan -1":             {`"vlan":-1`, "", 7, "vlan: -1"},
		"vlan as a string":    {`"vlan":"100"`, "", 7, "vlan: got string, want a whole number"},
		"vlan 1.5":            {`"vlan":1.5`, "", 7, "vlan"},
		"QoS 8":               {`"vlan":1,"vlanQoS":8`, "", 7, "vlanQoS: 8"},
		"QoS without VLAN":    {`"vlanQoS":1`, "", 7, "vlanQoS: it needs a vlan"},
		"QoS on VLAN 0":       {`"vlan":0,"vlanQoS":1`, "", 7, "vlanQoS: it needs a vlan"},
		"802.1ad, no VLAN":    {`"vlanProto":"802.1ad"`, "", 7, "vlanProto: 802.1ad needs"},
		"protocol":            {`"vlan":1,"vlanProto":"qinq"`, "", 7, `vlanProto: "qinq"`},
		"spoofchk yes":        {`"spoofchk":"yes"`, "", 7, `spoofchk: "yes"`},
		"spoofchk true":       {`"spoofchk":true`, "", 7, "spoofchk: got bool, want a string"},
		"trust ON":            {`"trust":"ON"`, "", 7, `trust: "ON"`},
		"link state":          {`"link_state":"up"`, "", 7, `link_state: "up"`},
		"min over max":        {`"min_tx_rate":3,"max_tx_rate":2`, "", 7, "min_tx_rate: 3 is more than max_tx_rate 2"},
		"negative rate":       {`"max_tx_rate":-1`, "", 7, "max_tx_rate: -1"},
		"mtu 67":              {`"mtu":67`, "", 7, "mtu: 67"},
		"group MAC":           {`"mac":"01:00:00:00:00:01"`, "", 7, "mac: 01:00:00:00:00:01 is no unicast"},
		"zero MAC":            {`"mac":"00:00:00:00:00:00"`, "", 7, "no unicast"},
		"EUI-64":              {`"mac":"02:00:00:00:00:00:00:01"`, "", 7, "not an Ethernet address"},
		"MAC in CNI_ARGS":     {`"mac":"02:00:00:00:00:01"`, "MAC=x", 7, "MAC in CNI_ARGS"},
		"CNI_ARGS":            {``, "MAC", 4, "CNI_ARGS"},
		"all faults are told": {`"vlan":5000,"trust":"x","mtu":1`, "", 7, `vlan: 5000|trust: "x"|mtu: 1`},
		"override of the MAC": {`"allowPodOverrides":["deviceID"]`, "", 7, `"deviceID" cannot be left to pods`},
		"broken override":     {`"allowPodOverrides":["vlan"],"args":{"cni":{"vlan":"x"}}`, "", 7, "vlan"},
		"no JSON":             {`"vlan":`, "", 6, "network definition"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			conf := strings.TrimSuffix(`{"cniVersion":"1.0.0","name":"n",`+tt.conf, ",") + "}"
			_, err := Parse([]byte(conf), tt.args)
			var e *types.Error
			if !errors.As(err, &e) || e.Code != tt.code {
				t.Fatalf("got %v, want code %d", err, tt.code)
			}
			for word := range strings.SplitSeq(tt.words, "|") {
				if !strings.Contains(e.Error(), word) {
					t.Errorf("%q does not say %q", e.Error(), word)
				}
			}
		})
	}
}

// Whoever forgot to request the resource has to find out from the pod's event.
func TestMissingDevice(t *testing.T) {
	c, err := Parse([]byte(`{"name":"n"}`), "")
	if err != nil {
		t.Fatal(err)
	}
	var e *types.Error
	if !errors.As(c.NeedDevice(), &e) || e.Code != 7 {
		t.Fatalf("got %v, want code 7", c.NeedDevice())
	}
	for _, word := range []string{"deviceID", "k8s.v1.cni.cncf.io/resourceName", "requests that resource"} {
		if !strings.Contains(e.Error(), word) {
			t.Errorf("%q does not say %q", e.Error(), word)
		}
	}
}

// The kernel sets both rates at once: the one that is not named stays.
func TestWantedRate(t *testing.T) {
	have := vf.Settings{Rate: &vf.Rate{Min: 10, Max: 100}}
	tests := map[string]struct {
		config Config
		want   *vf.Rate
	}{
		"neither":  {Config{}, nil},
		"only min": {Config{MinTxRate: new(uint32(20))}, &vf.Rate{Min: 20, Max: 100}},
		"only max": {Config{MaxTxRate: new(uint32(0))}, &vf.Rate{Min: 10}},
		"both":     {Config{MinTxRate: new(uint32(1)), MaxTxRate: new(uint32(2))}, &vf.Rate{Min: 1, Max: 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.config.Wanted(have)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got.Rate); d != "" {
				t.Error(d)
			}
		})
	}
}

// A rate that the VF keeps can be at odds with the one that the network sets: better said before anything is changed.
func TestWantedRateRefuses(t *testing.T) {
	have := vf.Settings{Rate: &vf.Rate{Min: 10, Max: 100}}
	for name, c := range map[string]Config{
		"min over the VF's max": {MinTxRate: new(uint32(101))},
		"max under its min":     {MaxTxRate: new(uint32(9))},
	} {
		var e *types.Error
		if _, err := c.Wanted(have); !errors.As(err, &e) || e.Code != 7 {
			t.Errorf("%s: got %v, want code 7", name, err)
		}
	}
}

// What a pod's owner can put into CNI_ARGS ends as a MAC that an interface can have, or as an error.
func FuzzCNIArgs(f *testing.F) {
	for _, seed := range []string{"", "MAC=02:00:00:00:00:01", "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;MAC=x", ";;=;", "MAC", "MAC=;MAC=02-00-00-00-00-02"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, args string) {
		c, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"n"}`), args)
		var e *types.Error
		switch {
		case err != nil && (!errors.As(err, &e) || e.Code != 4 && e.Code != 7):
			t.Errorf("%v is no CNI error with code 4 or 7", err)
		case err == nil && c.MAC != nil && !c.MAC.IsUnicast():
			t.Errorf("MAC %v got through", c.MAC)
		case err == nil && (c.VLAN != nil || c.Trust != nil || c.SpoofCheck != nil):
			t.Errorf("CNI_ARGS set more than a MAC: %+v", c)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","vlan":1,"args":{"cni":{"vlan":2}},"allowPodOverrides":["vlan"]}`), "MAC=02:00:00:00:00:01")
	f.Fuzz(func(t *testing.T, conf []byte, args string) {
		c, err := Parse(conf, args)
		var e *types.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%v is no CNI error", err)
		}
		if err == nil && c.VLAN != nil && (c.VLAN.ID > 4094 || c.VLAN.QoS > 7) {
			t.Errorf("VLAN %v got through", c.VLAN)
		}
	})
}

// ADD refuses these, and DEL still has to know what to take back: or the pod never goes.
func TestParseForDelTakesWhatAddRefuses(t *testing.T) {
	device, err := pci.ParseAddress("0000:02:10.0")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		conf, args string
		want       pci.Address
	}{
		"a VLAN out of range":  {`{"name":"n","deviceID":"0000:02:10.0","vlan":5000}`, "", device},
		"a VLAN of words":      {`{"name":"n","deviceID":"0000:02:10.0","vlan":"ten"}`, "", device},
		"a bad MAC":            {`{"name":"n","pciBusID":"0000:02:10.0"}`, "MAC=none", device},
		"a bad device":         {`{"name":"n","deviceID":"../../etc"}`, "", pci.Address{}},
		"DNS of no shape":      {`{"name":"n","deviceID":"0000:02:10.0","dns":["192.0.2.1"]}`, "", device},
		"servers of no shape":  {`{"name":"n","deviceID":"0000:02:10.0","dns":{"nameservers":"192.0.2.1"}}`, "", device},
		"IPAM of no shape":     {`{"name":"n","deviceID":"0000:02:10.0","ipam":"static"}`, "", device},
		"a device of no shape": {`{"name":"n","deviceID":[1],"pciBusID":"0000:02:10.0"}`, "", device},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tt.conf), tt.args); err == nil {
				t.Fatal("ADD takes it")
			}
			c, fault, err := ParseForDel([]byte(tt.conf), tt.args)
			if err != nil || fault == nil {
				t.Fatalf("error %v, fault %v: want only a fault", err, fault)
			}
			if c.Network != "n" || c.Device != tt.want {
				t.Errorf("got network %q, device %v; want n, %v", c.Network, c.Device, tt.want)
			}
		})
	}
	if _, _, err := ParseForDel([]byte("{"), ""); err == nil {
		t.Error("no error for what is not JSON")
	}
}
