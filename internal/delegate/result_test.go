package delegate

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

func TestConvertResult(t *testing.T) {
	for name, tc := range map[string]struct{ in, asked, want, fails string }{
		"says none":      {`{"ips":[{"version":"4","address":"192.0.2.1/24"}]}`, "0.4.0", `{"cniVersion":"0.4.0","dns":{},"ips":[{"address":"192.0.2.1/24","version":"4"}]}`, ""},
		"says empty":     {`{"cniVersion":"","ips":[{"address":"192.0.2.1/24"}]}`, "1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.1/24"}]}`, ""},
		"newer":          {`{"cniVersion":"1.1.0","interfaces":[{"name":"a","mtu":9000}],"ips":[{"address":"192.0.2.1/24"}]}`, "0.3.1", `{"cniVersion":"0.3.1","dns":{},"interfaces":[{"name":"a"}],"ips":[{"address":"192.0.2.1/24","version":"4"}]}`, ""},
		"older":          {`{"cniVersion":"0.2.0","ip4":{"ip":"192.0.2.1/24"}}`, "1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.1/24"}]}`, ""},
		"of the future":  {`{"cniVersion":"2.0.0"}`, "1.0.0", ``, "2.0.0"},
		"null interface": {`{"interfaces":[null]}`, "0.4.0", ``, "null"},
		"null address":   {`{"ips":[null]}`, "1.0.0", ``, "null"},
		"not an object":  {`[]`, "1.0.0", ``, "not a JSON object"},
		"null":           {`null`, "1.0.0", ``, "null"},
		"empty":          {``, "1.0.0", ``, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := convertResult([]byte(tc.in), tc.asked)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("want an error with %q, got %v", tc.fails, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want, have any
			if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(got, &have); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNetworkStatus(t *testing.T) {
	conf := json.RawMessage(`{"cniVersion":"1.1.0","name":"n","type":"x"}`)
	attached := func(name, ifName, result string) Attached {
		return Attached{Attachment: network.Attachment{Name: name, IfName: ifName, Config: conf}, Result: json.RawMessage(result)}
	}
	bridge := attached("pods", "eth0", `{"cniVersion":"1.1.0",
		"interfaces":[{"name":"cni0","mac":"02:00:00:00:00:01"},{"name":"veth1"},{"name":"eth0","mac":"02:00:00:00:00:02","mtu":1450,"sandbox":"/ns"}],
		"ips":[{"interface":2,"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"interface":2,"address":"fd00::5/64","gateway":"fd00::1"}],
		"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"fd00::9"},{"dst":"10.0.0.0/8","gw":"10.0.0.3"}],"dns":{"nameservers":["10.96.0.10"]}}`)
	bridge.IsDefault = true
	two := attached("a/two", "net1", `{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":"/ns"},{"name":"net1b","mac":"02:00:00:00:00:03","sandbox":"/ns"}],
		"ips":[{"interface":1,"address":"192.0.2.2/24"},{"interface":7,"address":"192.0.2.1/24"},{"address":"192.0.2.3/24"}]}`)
	none := attached("a/none", "net2", `{"cniVersion":"1.1.0"}`)
	ipam := attached("a/ipam", "net3", `{"cniVersion":"1.1.0","ips":[{"address":"192.0.2.1/24","gateway":"192.0.2.254"}]}`)
	device := attached("a/dev", "net4", `{"cniVersion":"1.1.0","interfaces":[{"name":"net4","sandbox":"/ns"}]}`)
	device.DeviceInfo = json.RawMessage(`{"type":"pci"}`)
	routed := func(a Attached, to ...string) Attached { a.DefaultRoute = append([]string{}, to...); return a }
	for name, tc := range map[string]struct {
		in   []Attached
		want string
	}{
		"default network": {[]Attached{bridge}, `[{"name":"pods","interface":"eth0","ips":["10.0.0.5","fd00::5"],"mac":"02:00:00:00:00:02","mtu":1450,
			"default":true,"dns":{"nameservers":["10.96.0.10"]},"gateway":["10.0.0.1","fd00::9"]}]`},
		"two interfaces": {[]Attached{two}, `[{"name":"a/two","interface":"net1","ips":["192.0.2.1","192.0.2.3"],"default":false,"dns":{}},
			{"name":"a/two","interface":"net1b","mac":"02:00:00:00:00:03","ips":["192.0.2.2"],"default":false,"dns":{}}]`},
		"no interfaces":       {[]Attached{none, ipam}, `[{"name":"a/none","interface":"net2","default":false,"dns":{}},{"name":"a/ipam","interface":"net3","ips":["192.0.2.1"],"default":false,"dns":{}}]`},
		"device":              {[]Attached{device}, `[{"name":"a/dev","interface":"net4","default":false,"dns":{},"device-info":{"type":"pci"}}]`},
		"default route moved": {[]Attached{routed(ipam, "192.0.2.99")}, `[{"name":"a/ipam","interface":"net3","ips":["192.0.2.1"],"default":false,"dns":{},"gateway":["192.0.2.99"]}]`},
		"by its own gateway":  {[]Attached{routed(ipam)}, `[{"name":"a/ipam","interface":"net3","ips":["192.0.2.1"],"default":false,"dns":{},"gateway":["192.0.2.254"]}]`},
		"none":                {nil, `[]`},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := (&Record{Attachments: tc.in}).NetworkStatus()
			if err != nil {
				t.Fatal(err)
			}
			var want, got any
			if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	data, err := (&Record{Attachments: []Attached{bridge, routed(ipam, "192.0.2.99")}}).NetworkStatus()
	if err != nil || strings.Contains(string(data), "10.0.0.1\"") {
		t.Errorf("the default network still has a gateway: %s %v", data, err)
	}
}

// Whatever a plugin prints is converted or refused, and what was converted once can be told of.
func FuzzResult(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"0.2.0","ip4":{"ip":"192.0.2.1/24","routes":[{"dst":"0.0.0.0/0"}]}}`,
		`{"cniVersion":"0.4.0","interfaces":[{"name":"a","sandbox":"b"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.1/24"}],"routes":[null]}`,
		`{"cniVersion":"1.1.0","ips":[{"interface":-1,"address":"::1/0"}],"routes":[{"dst":"::/0","gw":"fe80::1","table":7}],"dns":{"search":["a"]}}`,
		`{"ip4":null,"ip6":{"routes":null}}`, `{"cniVersion":"1.0.0","ips":[{"address":null}]}`, `null`, `{`,
	} {
		for _, v := range []string{"0.2.0", "0.4.0", "1.1.0"} {
			f.Add([]byte(s), v)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		chain, err := ParseChain([]byte(`{"cniVersion":` + quote(version) + `,"name":"n","type":"x"}`))
		if err != nil {
			return
		}
		result, err := convertResult(data, chain.CNIVersion)
		if err != nil {
			return
		}
		conf, err := json.Marshal(map[string]string{"cniVersion": chain.CNIVersion, "name": "n", "type": "x"})
		if err != nil {
			t.Fatal(err)
		}
		a := Attached{Attachment: network.Attachment{Name: "n", IfName: "net1", Config: conf, DefaultRoute: []string{}}, Result: result}
		if _, err := a.gateways(); err != nil {
			a.DefaultRoute = nil // it gives none
		}
		if _, err := (&Record{Attachments: []Attached{a}}).NetworkStatus(); err != nil {
			t.Errorf("%s as %s was taken as %s, which cannot be told: %v", data, version, result, err)
		}
		if _, err := convertResult(result, chain.CNIVersion); err != nil {
			t.Errorf("%s was taken as %s, which the next plugin cannot read: %v", data, result, err)
		}
	})
}

func quote(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func FuzzParseChain(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a","capabilities":{"mac":true}}]}`))
	f.Add([]byte(`{"cniVersions":["0.1.0","1.1.0","9.0.0"],"name":"n","type":"a","disableCheck":"TRUE"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseChain(data)
		if err != nil {
			return
		}
		for _, p := range c.Plugins {
			if strings.ContainsAny(p.Type, "/\x00") || p.Type == "" || p.Type == ".." {
				t.Errorf("plugin type %q was taken", p.Type)
			}
			stdin, err := c.stdin(p, nil, nil)
			if err != nil {
				t.Fatalf("%s was taken, and cannot be given to plugin %s: %v", data, p.Type, err)
			}
			if again, err := ParseChain(stdin); err != nil || again.Name != c.Name || again.CNIVersion != c.CNIVersion {
				// A single plugin's own "plugins" or "cniVersions" key is its business.
				if _, own := p.raw["plugins"]; !own && p.raw["cniVersions"] == nil {
					t.Errorf("%s becomes %s for plugin %s: %v", data, stdin, p.Type, err)
				}
			}
		}
	})
}
