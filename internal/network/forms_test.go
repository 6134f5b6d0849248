package network

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShortForm(t *testing.T) {
	tests := map[string]struct {
		value string
		want  []Selection
	}{
		"none":                    {"", nil},
		"spaces only":             {"  \n", nil},
		"name":                    {"a", []Selection{{Namespace: "shop", Name: "a"}}},
		"namespace and name":      {"other/a", []Selection{{Namespace: "other", Name: "a"}}},
		"interface":               {"a@data0", []Selection{{Namespace: "shop", Name: "a", IfName: "data0"}}},
		"all three":               {"other/a@data0", []Selection{{Namespace: "other", Name: "a", IfName: "data0"}}},
		"list with spaces":        {" a , b.c,\tother/d ", []Selection{{Namespace: "shop", Name: "a"}, {Namespace: "shop", Name: "b.c"}, {Namespace: "other", Name: "d"}}},
		"the same network twice":  {"a,a", []Selection{{Namespace: "shop", Name: "a"}, {Namespace: "shop", Name: "a"}}},
		"interface with a dot":    {"a@net1.100", []Selection{{Namespace: "shop", Name: "a", IfName: "net1.100"}}},
		"a name of digits":        {"0/1", []Selection{{Namespace: "0", Name: "1"}}},
		"the longest name":        {strings.Repeat("a", 253), []Selection{{Namespace: "shop", Name: strings.Repeat("a", 253)}}},
		"the longest interface":   {"a@abcdefghijklmno", []Selection{{Namespace: "shop", Name: "a", IfName: "abcdefghijklmno"}}},
		"as many as there can be": {strings.TrimSuffix(strings.Repeat("a,", MaxAttachments), ","), slicesOf(Selection{Namespace: "shop", Name: "a"}, MaxAttachments)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSelections(tt.value, "shop")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func slicesOf(s Selection, n int) (all []Selection) {
	for range n {
		all = append(all, s)
	}
	return all
}

func TestShortFormRefuses(t *testing.T) {
	tests := map[string]struct {
		value string
		words []string
	}{
		"empty item":                {"a,,b", []string{"[1]", "names no network", "[namespace/]name[@interface]"}},
		"trailing comma":            {"a,", []string{"[1]", "names no network"}},
		"capitals":                  {"Net-A", []string{`"Net-A"`, "definition's name"}},
		"two slashes":               {"a/b/c", []string{`"b/c"`}},
		"no namespace":              {"/a", []string{"names no network"}},
		"no name":                   {"ns/", []string{"names no network"}},
		"a namespace with a dot":    {"a.b/c", []string{"not a namespace"}},
		"a path":                    {"../etc", []string{`".."`}},
		"an interface with a slash": {"a@x/y", []string{`"x/y"`, "network shop/a", "[0].interface"}},
		"an empty interface":        {"a@", []string{"interface"}},
		"a long interface":          {"a@abcdefghijklmnop", []string{"1 to 15"}},
		"an escape":                 {"a@\x1b[2J", []string{`\x1b`}},
		"too many":                  {strings.Repeat("a,", MaxAttachments+1), []string{"32 at most"}},
		"too long":                  {strings.Repeat("a", MaxAnnotation+1), []string{"at most"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: tt.value}, DefaultNamespace)
			wantRefusal(t, err, append(tt.words, "pod shop/till-0", NetworksAnnotation)...)
		})
	}
}

func TestJSONForm(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	tests := map[string]struct {
		element string
		want    Selection
	}{
		"name":              {`{"name":"a"}`, Selection{Namespace: "shop", Name: "a"}},
		"namespace":         {`{"name":"a","namespace":"other"}`, Selection{Namespace: "other", Name: "a"}},
		"an empty value":    {`{"name":"a","namespace":"","mac":"","interface":""}`, Selection{Namespace: "shop", Name: "a"}},
		"null is none":      {`{"name":"a","ips":null,"default-route":null}`, Selection{Namespace: "shop", Name: "a"}},
		"interface":         {`{"name":"a","interface":"data0"}`, Selection{Namespace: "shop", Name: "a", IfName: "data0"}},
		"interfaceRequest":  {`{"name":"a","interfaceRequest":"data0"}`, Selection{Namespace: "shop", Name: "a", IfName: "data0"}},
		"ips":               {`{"name":"a","ips":["192.0.2.1/24","2001:db8::1"]}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"ips": raw(`["192.0.2.1/24","2001:db8::1"]`)}}},
		"mac":               {`{"name":"a","mac":"02:00:00:00:00:01"}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"mac": raw(`"02:00:00:00:00:01"`)}}},
		"infiniband-guid":   {`{"name":"a","infiniband-guid":"02:00:00:00:00:00:00:01"}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"infinibandGUID": raw(`"02:00:00:00:00:00:00:01"`)}}},
		"portMappings":      {`{"name":"a","portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"UDP"}]}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"portMappings": raw(`[{"hostPort":8080,"containerPort":80,"protocol":"udp"}]`)}}},
		"protocol is tcp":   {`{"name":"a","portMappings":[{"hostPort":8080,"containerPort":80}]}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"portMappings": raw(`[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`)}}},
		"bandwidth":         {`{"name":"a","bandwidth":{"ingressRate":1000,"ingressBurst":10}}`, Selection{Namespace: "shop", Name: "a", Capabilities: object{"bandwidth": raw(`{"ingressBurst":10,"ingressRate":1000}`)}}},
		"cni-args":          {`{"name":"a","cni-args":{"k":{"n":12345678901234567890}}}`, Selection{Namespace: "shop", Name: "a", CNIArgs: object{"k": raw(`{"n":12345678901234567890}`)}}},
		"default-route":     {`{"name":"a","default-route":["192.0.2.1","2001:db8::1"]}`, Selection{Namespace: "shop", Name: "a", DefaultRoute: []string{"192.0.2.1", "2001:db8::1"}}},
		"default-route, []": {`{"name":"a","default-route":[]}`, Selection{Namespace: "shop", Name: "a", DefaultRoute: []string{}}},
		"ipam-claim":        {`{"name":"a","ipam-claim-reference":"vm1.net"}`, Selection{Namespace: "shop", Name: "a", IPAMClaim: "vm1.net"}},
		"deviceID":          {`{"name":"a","deviceID":"0000:02:10.0"}`, Selection{Namespace: "shop", Name: "a", DeviceID: "0000:02:10.0"}},
		"a key of others":   {`{"name":"a","com.example.key":1,"example.org/key":{}}`, Selection{Namespace: "shop", Name: "a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSelections("[ "+tt.element+" ]", "shop")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]Selection{tt.want}, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestJSONFormRefuses(t *testing.T) {
	element := func(s string) string { return `[{"name":"a",` + s + `}]` }
	tests := map[string]struct {
		value string
		words []string
	}{
		"broken JSON":              {`[{"name":"a"`, []string{"not JSON", "at byte"}},
		"an object":                {`{"name":"a"}`, []string{"list of objects"}},
		"a string":                 {`"a"`, []string{"list of objects"}},
		"strings":                  {`["a"]`, []string{"[0]", "not an object"}},
		"no name":                  {`[{"namespace":"b"}]`, []string{"[0].name", "missing"}},
		"a name of capitals":       {`[{"name":"A"}]`, []string{"[0].name", `"A"`}},
		"a name with a slash":      {`[{"name":"b/a"}]`, []string{"[0].name", `"b/a"`}},
		"an unknown key":           {element(`"vlan":3`), []string{`no key "vlan"`, "reverse domain name", "network shop/a"}},
		"a key in capitals":        {element(`"MAC":"02:00:00:00:00:01"`), []string{"write it mac"}},
		"a key with an underscore": {element(`"default_route":[]`), []string{"write it default-route"}},
		"gateway":                  {element(`"gateway":["192.0.2.1"]`), []string{`"default-route"`}},
		"a key twice":              {`[{"name":"a","name":"b"}]`, []string{`key "name" is there twice`}},
		"deep":                     {`[` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100) + `]`, []string{"64 levels"}},
		"ips of one string":        {element(`"ips":"192.0.2.1"`), []string{"[0].ips", "not a list"}},
		"no ips":                   {element(`"ips":[]`), []string{"[0].ips", "at least one"}},
		"bad ip":                   {element(`"ips":["192.0.2.1","192.0.2.300"]`), []string{"[0].ips[1]", "192.0.2.300"}},
		"bad prefix":               {element(`"ips":["192.0.2.1/33"]`), []string{"[0].ips[0]"}},
		"an ip with a zone":        {element(`"ips":["fe80::1%eth0"]`), []string{"[0].ips[0]"}},
		"bad mac":                  {element(`"mac":"zz"`), []string{"[0].mac", `"zz"`, "02:00:00:00:00:01"}},
		"an 8-byte mac":            {element(`"mac":"02:00:00:00:00:00:00:01"`), []string{"[0].mac"}},
		"a multicast mac":          {element(`"mac":"01:00:5e:00:00:01"`), []string{"multicast"}},
		"bad guid":                 {element(`"infiniband-guid":"02:00"`), []string{"[0].infiniband-guid", "eight bytes"}},
		"port 0":                   {element(`"portMappings":[{"hostPort":0,"containerPort":80}]`), []string{"portMappings[0].hostPort", "1 to 65535"}},
		"port 65536":               {element(`"portMappings":[{"hostPort":1,"containerPort":65536}]`), []string{"portMappings[0].containerPort"}},
		"no hostPort":              {element(`"portMappings":[{"containerPort":80}]`), []string{"portMappings[0].hostPort", "missing"}},
		"bad protocol":             {element(`"portMappings":[{"hostPort":1,"containerPort":80,"protocol":"icmp"}]`), []string{"portMappings[0].protocol", "tcp, udp or sctp"}},
		"a rate in words":          {element(`"bandwidth":{"ingressRate":"1M"}`), []string{"bandwidth.ingressRate", "whole number"}},
		"a fraction":               {element(`"bandwidth":{"ingressRate":1.5}`), []string{"bandwidth.ingressRate"}},
		"a negative rate":          {element(`"bandwidth":{"egressRate":-1}`), []string{"bandwidth.egressRate", "negative"}},
		"an unknown rate":          {element(`"bandwidth":{"rate":1}`), []string{"bandwidth.rate"}},
		"cni-args of a list":       {element(`"cni-args":[1]`), []string{"cni-args", "not an object"}},
		"bad gateway":              {element(`"default-route":["192.0.2.1/24"]`), []string{"default-route[0]", "192.0.2.1/24"}},
		"two default routes":       {`[{"name":"a","default-route":["192.0.2.1"]},{"name":"b","default-route":["192.0.2.2"]}]`, []string{"only one", "shop/b"}},
		"ips with a claim":         {element(`"ips":["192.0.2.1"],"ipam-claim-reference":"c"`), []string{"ipam-claim-reference", "shop/a"}},
		"a bad interface":          {element(`"interface":"a b"`), []string{"[0].interface"}},
		"the name lo":              {element(`"interface":"lo"`), []string{"loopback"}},
		"deviceID of a path":       {element(`"deviceID":"../../x"`), []string{"[0].deviceID"}},
		"thousands":                {"[" + strings.TrimSuffix(strings.Repeat(`{"name":"a"},`, 5000), ",") + "]", []string{"32 at most"}},
		"all faults at once":       {`[{"name":"a","mac":"zz"},{"name":"b","ips":["x"]}]`, []string{"[0].mac", "[1].ips[0]"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseAnnotations(testPod, map[string]string{NetworksAnnotation: tt.value}, DefaultNamespace)
			wantRefusal(t, err, append(tt.words, "pod shop/till-0", NetworksAnnotation)...)
		})
	}
}
