package cni

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

// Results in every form that there is, and what is none.
func TestReadCurrent(t *testing.T) {
	const (
		old    = `{"cniVersion":"%s","ip4":{"ip":"192.0.2.1/24","routes":[{"dst":"0.0.0.0/0"}]}}`
		tagged = `{"cniVersion":"%s","ips":[{"version":"4","address":"192.0.2.1/24"}],"routes":[{"dst":"0.0.0.0/0"}]}`
		plain  = `{"cniVersion":"%s","ips":[{"address":"192.0.2.1/24"}],"routes":[{"dst":"0.0.0.0/0"}]}`
	)
	forms := map[string]string{
		"0.1.0": old, "0.2.0": old, "0.3.0": tagged, "0.3.1": tagged, "0.4.0": tagged, "1.0.0": plain, "1.1.0": plain,
	}
	for version, form := range forms {
		said, silent := fmt.Sprintf(form, version), strings.Replace(form, `"cniVersion":"%s",`, "", 1)
		empty := fmt.Sprintf(form, "")
		for _, in := range []struct{ data, otherwise string }{{said, "9.9.9"}, {silent, version}, {empty, version}} {
			r, err := ReadCurrent([]byte(in.data), in.otherwise)
			if err != nil || len(r.IPs) != 1 || r.IPs[0].Address.String() != "192.0.2.1/24" || len(r.Routes) != 1 || r.Routes[0].Dst.String() != "0.0.0.0/0" {
				t.Errorf("%s, asked in %s: %v, %v", in.data, in.otherwise, r, err)
			}
		}
	}
	for data, words := range map[string]string{
		`{"ips":[null]}`: "element 0 of ips is null",
		`{"ips":[{"address":"10.0.0.1/8"},null]}`: "element 1 of ips is null",
		`{"ips":[{}]}`:                    "element 0 of ips has no address",
		`{"ips":[{"address":null}]}`:      "invalid CIDR",
		`{"ips":7}`:                       "key ips",
		`{"routes":[null]}`:               "element 0 of routes is null",
		`{"routes":[{"gw":"10.0.0.1"}]}`:  "element 0 of routes has no dst",
		`{"interfaces":[null]}`:           "element 0 of interfaces is null",
		`{"cniVersion":"0.2.0","ip4":{}}`: "element 0 of ips has no address",
		`{"cniVersion":"0.2.0","ip6":{"ip":"::1/0","routes":[null]}}`: "element 0 of routes has no dst",
		`{"cniVersion":"1.2.0"}`: "1.2.0",
		`{"cniVersion":7}`:       "cniVersion",
		`null`:                   "null",
		`[]`:                     "not a JSON object",
		``:                       "not a JSON object",
	} {
		if r, err := ReadCurrent([]byte(data), "1.1.0"); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, %v; want an error with %q", data, r, err, words)
		}
	}
}

// Whatever was read is whole.
func FuzzReadCurrent(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"0.2.0","ip4":{"ip":"192.0.2.1/24","routes":[{"dst":"0.0.0.0/0"}]}}`, `{"ip4":{},"ip6":{"routes":[null]}}`,
		`{"cniVersion":"0.4.0","interfaces":[{"name":"a"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.1/24"}],"routes":[null]}`,
		`{"cniVersion":"1.1.0","ips":[{"address":"::1/0"}],"routes":[{"dst":"::/0","gw":"fe80::1","table":7}]}`,
		`{"ips":[null]}`, `{"ips":[{}]}`, `{"ips":[{"address":null}]}`, `null`, `{`,
	} {
		for _, v := range []string{"0.2.0", "0.3.1", "1.1.0"} {
			f.Add([]byte(s), v)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		r, err := ReadCurrent(data, version)
		if err != nil {
			return
		}
		for _, ip := range r.IPs {
			if ip == nil || ip.Address.IP == nil || len(ip.Address.Mask) == 0 {
				t.Errorf("%s has an address that is none: %v", data, ip)
			}
		}
		for _, route := range r.Routes {
			if route == nil || route.Dst.IP == nil || len(route.Dst.Mask) == 0 {
				t.Errorf("%s has a route that is none: %v", data, route)
			}
		}
	})
}

// The words by which containerd takes a DEL that failed for one that succeeded are in no error.
func TestDelError(t *testing.T) {
	tests := map[string]string{
		"not found":                         "not-found",
		"device Not  Found: not\nfound":     "device not-found: not-found",
		"open x: no such file or directory": "open x: no-such-file-or-directory",
		"nothing to be found here":          "nothing to be found here",
	}
	for in, want := range tests {
		got := DelError(&types.Error{Code: 7, Msg: in, Details: in})
		if d := cmp.Diff(&types.Error{Code: 7, Msg: want, Details: want}, got); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
	if DelError(nil) != nil {
		t.Error("no error became one")
	}
}
