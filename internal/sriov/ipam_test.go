package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

func newPlugin(t *testing.T) *Plugin {
	t.Helper()
	p := New(filepath.Join(t.TempDir(), "vf"), slog.New(slog.DiscardHandler))
	p.Out = io.Discard
	return p
}

// script is an IPAM plugin, called stand-in, that is a shell script.
func script(t *testing.T, body string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "stand-in"), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ipamCall(t *testing.T, p *Plugin, path, conf string) *call {
	t.Helper()
	c, err := p.call(&cni.CmdArgs{
		ContainerID: "c1", Netns: "/run/netns/x", IfName: "net1", Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p", Path: path, StdinData: []byte(conf),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// given is what an IPAM plugin gave, as text: addresses with their gateways, then routes.
func given(r *types100.Result) []string {
	var all []string
	for _, ip := range r.IPs {
		all = append(all, fmt.Sprintf("%v by %v", &ip.Address, ip.Gateway))
	}
	for _, route := range r.Routes {
		all = append(all, fmt.Sprintf("to %v by %v", &route.Dst, route.GW))
	}
	return all
}

// What IPAM plugins answer, in the forms of their versions.
func TestIPAMForms(t *testing.T) {
	tests := map[string]struct {
		version, answer string
		want            []string
	}{
		"host-local, 0.2.0": {
			"0.2.0", `{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.2/24","gateway":"10.9.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"}}`,
			[]string{"10.9.0.2/24 by 10.9.0.1", "fd00::2/64 by <nil>", "to 0.0.0.0/0 by <nil>"},
		},
		"no version is that of the network": {
			"0.1.0", `{"ip4":{"ip":"10.9.0.2/24"},"dns":{}}`, []string{"10.9.0.2/24 by <nil>"},
		},
		"host-local, 0.3.1": {
			"0.3.1", `{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.9.0.2/24","gateway":"10.9.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}`,
			[]string{"10.9.0.2/24 by 10.9.0.1", "to 0.0.0.0/0 by <nil>"},
		},
		"dhcp: routes with gateways, the default among them": {
			"1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.77/26","gateway":"192.0.2.65"}],` +
				`"routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.65"},{"dst":"198.51.100.0/24","gw":"192.0.2.66"}],"dns":{"nameservers":["192.0.2.53"],"domain":"example.org"}}`,
			[]string{"192.0.2.77/26 by 192.0.2.65", "to 0.0.0.0/0 by 192.0.2.65", "to 198.51.100.0/24 by 192.0.2.66"},
		},
		"whereabouts: an older result for a newer network, no gateway, no routes": {
			"1.0.0", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.10.0.1/16"},{"version":"6","address":"2001:db8::1/64"}],"dns":{}}`,
			[]string{"10.10.0.1/16 by <nil>", "2001:db8::1/64 by <nil>"},
		},
		"no version, of a newer network": {
			"1.1.0", `{"ips":[{"address":"10.9.0.2/24"}]}`, []string{"10.9.0.2/24 by <nil>"},
		},
		"1.1.0, with all that a route can say": {
			"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"}],"routes":[{"dst":"10.0.0.0/8","gw":"10.9.0.9","mtu":1400,"advmss":1300,"priority":5,"table":100,"scope":0}]}`,
			[]string{"10.9.0.2/24 by <nil>", "to 10.0.0.0/8 by 10.9.0.9"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t)
			dir := script(t, `cat > "$0.stdin"; env > "$0.env"; cat "$0.answer"`)
			if err := os.WriteFile(filepath.Join(dir, "stand-in.answer"), []byte(tt.answer), 0o600); err != nil {
				t.Fatal(err)
			}
			conf := fmt.Sprintf(`{"cniVersion":%q,"name":"n","type":"sriov","vlan":5,"ipam":{"type":"stand-in","own":1},"args":{"cni":{"ips":["10.9.0.2"]}}}`, tt.version)
			r, err := p.ipamAdd(t.Context(), ipamCall(t, p, dir, conf))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, given(r)); d != "" {
				t.Error(d)
			}
			// It gets the network definition as it is, and the whole environment of the call.
			stdin, err := os.ReadFile(filepath.Join(dir, "stand-in.stdin"))
			if err != nil || string(stdin) != conf {
				t.Errorf("stdin %s, %v; want %s", stdin, err, conf)
			}
			env, err := os.ReadFile(filepath.Join(dir, "stand-in.env"))
			for _, want := range []string{
				"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=net1", "CNI_PATH=" + dir,
				"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p",
			} {
				if err != nil || !strings.Contains("\n"+string(env), "\n"+want+"\n") {
					t.Errorf("%s is missing in its environment: %v\n%s", want, err, env)
				}
			}
		})
	}
}

func TestIPAMErrors(t *testing.T) {
	tests := map[string]struct {
		body  string
		code  uint
		words string
	}{
		"its own error":      {`echo '{"code":11,"msg":"pool exhausted","details":"10.9.0.0/24"}'; exit 1`, 11, "pool exhausted"},
		"no words on stdout": {`echo "panic: no config" >&2; exit 2`, 0, "panic: no config"},
		"no JSON":            {`echo hello`, 6, "cannot be read"},
		"nothing":            {``, 6, "cannot be read"},
		"no address":         {`echo '{"cniVersion":"1.0.0","ips":[{"address":"x"}]}'`, 6, "invalid CIDR"},
		"a null address":     {`echo '{"ips":[null]}'`, 6, "element 0 of ips is null"},
		"an empty address":   {`echo '{"ips":[{}]}'`, 6, "element 0 of ips has no address"},
		"a hang":             {`sleep 3600`, 11, "killed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t)
			if name == "a hang" {
				p.IPAMWait = 100 * time.Millisecond
			}
			dir := script(t, tt.body)
			_, err := p.ipamAdd(t.Context(), ipamCall(t, p, dir, `{"cniVersion":"1.0.0","name":"n","ipam":{"type":"stand-in"}}`))
			if err == nil || codeOf(err, 0) != tt.code || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %v, code %d; want code %d and %q", err, codeOf(err, 0), tt.code, tt.words)
			}
		})
	}
	p := newPlugin(t)
	for _, name := range []string{"../sh", "a/b", "..", "no-such"} {
		conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","ipam":{"type":%q}}`, name)
		if _, err := p.ipamAdd(t.Context(), ipamCall(t, p, "/bin", conf)); codeOf(err, 0) != 7 {
			t.Errorf("IPAM plugin %q: %v, want code 7", name, err)
		}
	}
}

// The real ones, through all verbs.
func TestRealIPAM(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../delegate/testdata/plugins", "-o", dir+"/",
		"github.com/containernetworking/plugins/plugins/ipam/host-local", "github.com/containernetworking/plugins/plugins/ipam/static")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the IPAM plugins: %v: %s", err, out)
	}
	tests := map[string]struct {
		ipam string
		want []string
	}{
		"host-local": {
			`{"type":"host-local","dataDir":"DATA","ranges":[[{"subnet":"10.9.0.0/24"}],[{"subnet":"fd00:9::/64"}]],"routes":[{"dst":"0.0.0.0/0"}]}`,
			[]string{"10.9.0.2/24 by 10.9.0.1", "fd00:9::2/64 by fd00:9::1", "to 0.0.0.0/0 by <nil>"},
		},
		"static": {
			`{"type":"static","addresses":[{"address":"10.9.1.5/24","gateway":"10.9.1.1"}],"routes":[{"dst":"10.0.0.0/8","gw":"10.9.1.254"}]}`,
			[]string{"10.9.1.5/24 by 10.9.1.1", "to 10.0.0.0/8 by 10.9.1.254"},
		},
	}
	for name, tt := range tests {
		for _, version := range []string{"0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(name+" "+version, func(t *testing.T) {
				p := newPlugin(t)
				conf := fmt.Sprintf(`{"cniVersion":%q,"name":"n","type":"sriov","ipam":%s}`, version, strings.Replace(tt.ipam, "DATA", t.TempDir(), 1))
				r, err := p.ipamAdd(t.Context(), ipamCall(t, p, dir, conf))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.want, given(r)); d != "" {
					t.Error(d)
				}
				if version >= "0.4.0" {
					check := withPrevious(t, conf, r, version)
					if _, err := p.ipam(t.Context(), ipamCall(t, p, dir, check), "CHECK"); err != nil {
						t.Errorf("CHECK: %v", err)
					}
				}
				if _, err := p.ipam(t.Context(), ipamCall(t, p, dir, conf), "DEL"); err != nil {
					t.Errorf("DEL: %v", err)
				}
				if version != "1.1.0" {
					return
				}
				if err := p.Status(t.Context(), ipamCall(t, p, dir, conf).CmdArgs); err != nil {
					t.Errorf("STATUS: %v", err)
				}
				gc := strings.TrimSuffix(conf, "}") + `,"cni.dev/valid-attachments":[]}`
				if err := p.GC(t.Context(), ipamCall(t, p, dir, gc).CmdArgs); err != nil {
					t.Errorf("GC: %v", err)
				}
			})
		}
	}
}

func withPrevious(t *testing.T, conf string, r *types100.Result, version string) string {
	t.Helper()
	// As the main plugin answers: the interface is the first.
	r.Interfaces = []*types100.Interface{{Name: "net1", Sandbox: "/run/netns/x"}}
	for _, ip := range r.IPs {
		ip.Interface = new(0)
	}
	versioned, err := r.GetAsVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(versioned)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(conf, "}") + `,"prevResult":` + string(b) + "}"
}

// STATUS tells of sysfs, the state folder and IPAM, each by itself.
func TestStatus(t *testing.T) {
	const bare = `{"cniVersion":"1.1.0","name":"n","type":"sriov"}`
	const ipam = `{"cniVersion":"1.1.0","name":"n","type":"sriov","ipam":{"type":"stand-in"}}`
	tests := map[string]struct {
		conf, body string
		breakIt    func(t *testing.T, p *Plugin)
		code       uint
		words      string
	}{
		"all is well":                   {conf: bare},
		"with IPAM":                     {conf: ipam, body: `[ "$CNI_COMMAND" = STATUS ]`},
		"no sysfs":                      {conf: bare, breakIt: func(t *testing.T, p *Plugin) { p.Root = t.TempDir() }, code: 50, words: "sys/bus/pci/devices"},
		"no state folder":               {conf: bare, breakIt: func(t *testing.T, p *Plugin) { p.Records.Dir = "/dev/null/vf" }, code: 50, words: "state folder"},
		"IPAM is not available":         {conf: ipam, body: `echo '{"code":50,"msg":"no daemon"}'; exit 1`, code: 50, words: "no daemon"},
		"IPAM fails in its own words":   {conf: ipam, body: `echo '{"code":7,"msg":"bad range"}'; exit 1`, code: 50, words: "bad range"},
		"IPAM has limited connectivity": {conf: ipam, body: `echo '{"code":51,"msg":"half"}'; exit 1`, code: 51, words: "half"},
		"IPAM does not know the verb":   {conf: ipam, body: `echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t)
			if tt.breakIt != nil {
				tt.breakIt(t, p)
			}
			dir := script(t, tt.body)
			err := p.Status(context.Background(), ipamCall(t, p, dir, tt.conf).CmdArgs)
			var e *types.Error
			switch {
			case tt.code == 0 && err != nil:
				t.Error(err)
			case tt.code != 0 && (!errors.As(err, &e) || e.Code != tt.code || !strings.Contains(e.Error(), tt.words)):
				t.Errorf("got %v, want code %d and %q", err, tt.code, tt.words)
			}
		})
	}
}

// A result in every version: what the old ones cannot say is left out. The library writes 1.0.0 with the fields of 1.1.0.
func TestExpress(t *testing.T) {
	full := func() *types100.Result {
		v4, v6 := types100.IPConfig{Interface: new(0)}, types100.IPConfig{Interface: new(0)}
		for ip, cidr := range map[*types100.IPConfig]string{&v4: "10.9.0.2/24", &v6: "fd00::2/64"} {
			n, err := types.ParseCIDR(cidr)
			if err != nil {
				t.Fatal(err)
			}
			ip.Address = *n
		}
		return &types100.Result{
			CNIVersion: "1.1.0", IPs: []*types100.IPConfig{&v4, &v6},
			Interfaces: []*types100.Interface{{Name: "net1", Mac: "02:00:00:00:00:01", Mtu: 1500, Sandbox: "/run/netns/x", PciID: "0000:02:10.0"}},
		}
	}
	const (
		ips03  = `"ips":[{"version":"4","interface":0,"address":"10.9.0.2/24"},{"version":"6","interface":0,"address":"fd00::2/64"}],"dns":{}`
		ips10  = `"ips":[{"interface":0,"address":"10.9.0.2/24"},{"interface":0,"address":"fd00::2/64"}]`
		iface  = `"interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/run/netns/x"}]`
		iface1 = `"interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","mtu":1500,"sandbox":"/run/netns/x","pciID":"0000:02:10.0"}]`
	)
	tests := map[string]struct{ full, bare string }{
		"0.1.0": {`"ip4":{"ip":"10.9.0.2/24"},"ip6":{"ip":"fd00::2/64"},"dns":{}`, `"dns":{}`},
		"0.2.0": {`"ip4":{"ip":"10.9.0.2/24"},"ip6":{"ip":"fd00::2/64"},"dns":{}`, `"dns":{}`},
		"0.3.0": {iface + "," + ips03, iface + `,"dns":{}`},
		"0.3.1": {iface + "," + ips03, iface + `,"dns":{}`},
		"0.4.0": {iface + "," + ips03, iface + `,"dns":{}`},
		"1.0.0": {iface1 + "," + ips10, iface1},
		"1.1.0": {iface1 + "," + ips10, iface1},
	}
	for version, tt := range tests {
		bare := full()
		bare.IPs = nil
		for want, r := range map[string]*types100.Result{tt.full: full(), tt.bare: bare} {
			out, err := express(r, version)
			if err != nil {
				t.Errorf("%s: %v", version, err)
				continue
			}
			if d := cmp.Diff(decoded(t, `{"cniVersion":"`+version+`",`+want+"}"), decoded(t, encoded(t, out))); d != "" {
				t.Errorf("%s: %s", version, d)
			}
		}
	}
	if _, err := express(full(), "9.9.9"); codeOf(err, 0) != 1 {
		t.Errorf("version 9.9.9: %v, want code 1", err)
	}
}

func encoded(t *testing.T, r types.Result) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func decoded(t *testing.T, s string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}
