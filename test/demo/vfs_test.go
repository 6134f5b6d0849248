package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func state(t *testing.T, entry, netdev string) vfState {
	t.Helper()
	s := vfState{BDF: "0000:41:10.0", PF: "eth1"}
	if err := json.Unmarshal([]byte(entry), &s.Entry); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(netdev), &s.Netdev); err != nil {
		t.Fatal(err)
	}
	return s
}

// The demo's verdict rests on this: whatever differs is said.
func TestDifferences(t *testing.T) {
	const entry, netdev = `{"vf":0,"address":"aa:bb","vlan_list":[{"vlan":100}],"spoofchk":true}`, `{"ifname":"eth3","mtu":1500}`
	before := map[string]vfState{"0000:41:10.0": state(t, entry, netdev)}
	tests := map[string]struct {
		after map[string]vfState
		want  []string
	}{
		"nothing": {map[string]vfState{"0000:41:10.0": state(t, entry, netdev)}, nil},
		"its VLAN": {
			map[string]vfState{"0000:41:10.0": state(t, `{"vf":0,"address":"aa:bb","spoofchk":true}`, netdev)},
			[]string{`0000:41:10.0, VF 0's entry at eth1: vlan_list was [{"vlan":100}], is absent`},
		},
		"its name and MTU": {
			map[string]vfState{"0000:41:10.0": state(t, entry, `{"ifname":"net1","mtu":9000}`)},
			[]string{`0000:41:10.0, its netdev: ifname was "eth3", is "net1"`, `0000:41:10.0, its netdev: mtu was 1500, is 9000`},
		},
		"its netdev is gone": {
			map[string]vfState{"0000:41:10.0": state(t, entry, `null`)},
			[]string{`0000:41:10.0, its netdev: ifname was "eth3", is absent`, `0000:41:10.0, its netdev: mtu was 1500, is absent`},
		},
		"another VF": {
			map[string]vfState{"0000:41:10.0": state(t, entry, netdev), "0000:41:10.2": {}},
			[]string{"0000:41:10.2 was not there before"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, differences(before, tt.after)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEntry(t *testing.T) {
	want := vfEntry{mac: "02:00:00:00:64:0a", vlan: 100, spoofchk: true}
	for name, entry := range map[string]string{
		"a list of VLANs": `{"vf":0,"address":"02:00:00:00:64:0A","vlan_list":[{"vlan":100}],"spoofchk":true}`,
		"one VLAN":        `{"vf":0,"mac":"02:00:00:00:64:0a","vlan":100,"spoofchk":true}`,
	} {
		if got := state(t, entry, `null`).entry(); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	want := `kubectl get pods -o 'jsonpath={.items}' '' 'it'\''s'`
	if got := quote([]string{"kubectl", "get", "pods", "-o", "jsonpath={.items}", "", "it's"}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
