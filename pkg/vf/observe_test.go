package vf

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDifferences(t *testing.T) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	tests := map[string]struct {
		live, want Settings
		diff       []Difference
	}{
		"as it should be": {live: Defaults(), want: Defaults()},
		"nothing wanted":  {live: Defaults()},
		"different": {
			live: Defaults(), want: Settings{VLAN: &VLAN{ID: 100, Proto: Proto8021Q}, Trust: new(true), SpoofCheck: new(true)},
			diff: []Difference{{"vlan", "100, QoS 0, 802.1q", "0, QoS 0, 802.1q"}, {"trust", "on", "off"}},
		},
		"not reported":            {live: Settings{VLAN: new(Untagged)}, want: Defaults()},
		"the VF chose its MAC":    {live: Settings{MAC: &mac}, want: Settings{MAC: new(MAC)}},
		"802.1ad taken, Q shown":  {live: Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021Q}}, want: Settings{VLAN: &VLAN{ID: 5, Proto: Proto8021AD}}},
		"a MAC that is not there": {live: Settings{MAC: new(MAC)}, want: Settings{MAC: &mac}, diff: []Difference{{"mac", "02:00:00:00:00:01", "00:00:00:00:00:00"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.diff, test.live.Differences(test.want)); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNetdevDifferences(t *testing.T) {
	base := Netdev{Index: 5, Name: "ens2v0", AltNames: []string{"enp2s16"}, MAC: MAC{2, 0, 0, 0, 0, 1}, MTU: 1500, TxQueueLen: 1000, GSOMaxSize: 65536}
	live := base
	live.Index, live.Up, live.Carrier = 9, true, true
	if diff := live.Differences(base); diff != nil {
		t.Errorf("what is nobody's business differs: %v", diff)
	}
	if diff := live.Differences(Netdev{Name: base.Name, AltNames: base.AltNames, TxQueueLen: 1000}); diff != nil {
		t.Errorf("what is not known differs: %v", diff)
	}
	live.Name, live.AltNames, live.MTU, live.Promisc, live.GSOMaxSize, live.NoMulticast, live.XDP = "net1", nil, 9000, true, 1, true, 2
	want := []string{
		"name is net1, and should be ens2v0", "alternative names is nothing, and should be enp2s16", "mtu is 9000, and should be 1500",
		"promisc is on, and should be off", "multicast is off, and should be on", "xdp is a program, and should be none", "gso_max_size is 1, and should be 65536",
	}
	var got []string
	for _, d := range live.Differences(base) {
		got = append(got, d.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

// Two entries of a PF's list, and one without a MAC, whose number nobody knows.
func TestParseVFInfos(t *testing.T) {
	entry := func(s Settings, number int) []byte { return vfInfoList(s.attributes(number)).Serialize()[4:] }
	a, b := Settings{MAC: &MAC{1: 1}, Trust: new(true)}, Settings{MAC: &MAC{1: 2}, VLAN: &VLAN{ID: 5, Proto: Proto8021Q}}
	list := append(append(entry(a, 0), entry(b, 7)...), entry(Settings{Trust: new(true)}, 3)...)
	got, err := parseVFInfos(list)
	if diff := cmp.Diff(map[int]Settings{0: a, 7: b}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := parseVFInfos([]byte{1, 0, 0, 0}); err == nil {
		t.Error("an attribute shorter than its header is taken")
	}
}
