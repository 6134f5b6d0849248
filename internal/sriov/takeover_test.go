package sriov

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// What another project's file says is a namespace's path leads nowhere if it is none, and nobody waits at a pipe.
func TestForeign(t *testing.T) {
	own, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	d := &device{ns: own}
	dir := t.TempDir()
	pipe, plain := filepath.Join(dir, "pipe"), filepath.Join(dir, "plain")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", ".", dir, pipe, plain, plain + "/x", dir + "/none", "/dev/zero", "a\x00b", "/proc/thread-self/ns/net", "/proc/self/ns/uts"} {
		if at := d.foreign(path); at != (Place{}) {
			t.Errorf("%q leads to %+v", path, at)
		}
	}
}

func TestSettingsOfWhatSRIOVCNISaved(t *testing.T) {
	yes, no := true, false
	tests := map[string]struct {
		saved    takeover.VFState
		want     vf.Settings
		pfDriver string
	}{
		"nothing":            {want: vf.Defaults(), pfDriver: "igb"},
		"nothing, of NVIDIA": {want: vf.Defaults().With(vf.Settings{SpoofCheck: &no}), pfDriver: "mlx5_core"},
		"all": {
			saved: takeover.VFState{
				AdminMAC: "02:00:00:00:00:01", Vlan: 7, VlanQoS: 3, VlanProto: unix.ETH_P_8021AD, MinTxRate: 10, MaxTxRate: 20,
				SpoofChk: &no, Trust: &yes, LinkState: 2,
			},
			want: vf.Defaults().With(vf.Settings{
				MAC: &vf.MAC{2, 0, 0, 0, 0, 1}, VLAN: &vf.VLAN{ID: 7, QoS: 3, Proto: vf.Proto8021AD}, Rate: &vf.Rate{Min: 10, Max: 20},
				SpoofCheck: &no, Trust: &yes, LinkState: new(vf.LinkDisable),
			}),
		},
		"a least rate without a limit": {saved: takeover.VFState{MinTxRate: 10}, want: vf.Defaults().With(vf.Settings{Rate: &vf.Rate{Min: 10}})},
		"a least rate above the limit": {saved: takeover.VFState{MinTxRate: 10, MaxTxRate: 5}, want: vf.Defaults()},
	}
	for name, tt := range tests {
		if got := settingsOf(tt.saved, tt.pfDriver); got.String() != tt.want.String() {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
