package sriov

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func refused(s vf.Settings, errno unix.Errno) error {
	return fmt.Errorf("settle: %w", &vf.Refused{Device: "VF 0", Attribute: "x", Settings: s, Err: errno})
}

// What a driver refuses when a VF is put back: a rate is owed, what it can never do is left out of safe defaults, and the rest
// keeps the VF.
func TestSettleWhatCan(t *testing.T) {
	rate, spoof, trust := vf.Settings{Rate: &vf.Rate{}}, vf.Settings{SpoofCheck: new(true)}, vf.Settings{Trust: new(false)}
	tests := map[string]struct {
		salvaged bool
		refusals []error // in turn
		want     Owed
		settled  vf.Settings // what was asked for last
		failed   error
	}{
		"nothing": {settled: vf.Defaults()},
		"a rate, without carrier": {
			refusals: []error{refused(rate, unix.EINVAL)}, want: Owed{Rate: &vf.Rate{}}, settled: vf.Plan(rate, vf.Defaults()),
		},
		"a spoof check that the driver does not know, salvaged": {
			salvaged: true, refusals: []error{refused(spoof, 524)}, settled: vf.Plan(spoof, vf.Defaults()),
		},
		"two that it does not know": {
			salvaged: true, refusals: []error{refused(trust, unix.EOPNOTSUPP), refused(spoof, unix.EOPNOTSUPP)},
			settled: vf.Plan(trust.With(spoof), vf.Defaults()),
		},
		"trust, salvaged": {
			salvaged: true, refusals: []error{refused(trust, unix.EPERM)}, settled: vf.Defaults(), failed: vf.ErrPermission,
		},
		"a spoof check that it knew when the pod came": {
			refusals: []error{refused(spoof, unix.EOPNOTSUPP)}, settled: vf.Defaults(), failed: vf.ErrUnsupported,
		},
		"the PF is away": {
			refusals: []error{&vf.Refused{Device: "interface 4", Err: unix.ENODEV}}, settled: vf.Defaults(), failed: vf.ErrNoDevice,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := &device{p: newPlugin(t), log: slog.New(slog.DiscardHandler)}
			r := &Record{Salvaged: tt.salvaged}
			var last vf.Settings
			_, err := d.settleWhatCan(r, vf.Defaults(), func(s vf.Settings) (vf.Settings, error) {
				last = s
				if len(tt.refusals) == 0 {
					return s, nil
				}
				err := tt.refusals[0]
				tt.refusals = tt.refusals[1:]
				return vf.Settings{}, err
			})
			if !errors.Is(err, tt.failed) || (err == nil) != (tt.failed == nil) {
				t.Errorf("got %v, want %v", err, tt.failed)
			}
			if diff := cmp.Diff(tt.want, r.Owed); diff != "" {
				t.Errorf("owed: %s", diff)
			}
			if diff := cmp.Diff(tt.settled, last); diff != "" {
				t.Errorf("asked for last: %s", diff)
			}
		})
	}
}

// Only a busy driver is asked again for what it does not show: what it shows was seen, and what it does not know cannot be.
func TestUnseen(t *testing.T) {
	pods := vf.MAC{2, 0, 0, 0, 0, 9}
	live := vf.Settings{VLAN: &vf.Untagged, SpoofCheck: new(true), MAC: &pods}
	busyMAC := []error{refused(vf.Settings{MAC: new(vf.MAC)}, unix.EBUSY)}
	if got := unseen(live, busyMAC, &vf.MAC{2, 0, 0, 0, 0, 8}); !got.IsEmpty() {
		t.Errorf("the VF has chosen a MAC, and %v is to be set", got)
	}
	if got := unseen(live, busyMAC, &pods); got.MAC == nil || !got.MAC.IsZero() {
		t.Errorf("the pod's MAC is still there, and %v is to be set", got)
	}
	got := unseen(live, []error{
		refused(vf.Settings{Trust: new(false)}, unix.EBUSY), refused(vf.Settings{SpoofCheck: new(false)}, unix.EBUSY),
		refused(vf.Settings{LinkState: new(vf.LinkAuto)}, unix.EOPNOTSUPP), refused(vf.Settings{Rate: new(vf.Rate)}, unix.EIO),
	}, nil)
	if diff := cmp.Diff(vf.Settings{Trust: new(false), Rate: new(vf.Rate)}, got); diff != "" {
		t.Error(diff)
	}
}

// A driver that takes no zero MAC gets the VF's own: the pod's must not go to the next one.
func TestNoZeroMAC(t *testing.T) {
	own, pods := vf.MAC{2, 0, 0, 0, 0, 1}, vf.MAC{2, 0, 0, 0, 0, 9}
	for _, tt := range []struct {
		name string
		zero unix.Errno // what the driver says of it
		own  unix.Errno
		mac  vf.MAC // that it has then
		err  error
	}{
		{"takes it", 0, 0, vf.MAC{}, nil},
		{"takes none", unix.EINVAL, 0, own, nil},
		{"is busy", unix.EBUSY, 0, pods, vf.ErrBusy},
		{"is being reset", unix.EINVAL, unix.EINVAL, pods, vf.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			has, trust := pods, true
			write := func(s vf.Settings) error {
				if s.Trust != nil {
					trust = *s.Trust
				}
				switch {
				case s.MAC == nil:
				case s.MAC.IsZero() && tt.zero != 0:
					return refused(s, tt.zero)
				case !s.MAC.IsZero() && tt.own != 0:
					return refused(s, tt.own)
				default:
					has = *s.MAC
				}
				return nil
			}
			err := settleUnseen(vf.Settings{MAC: new(vf.MAC), Trust: new(false)}, own, write)
			if !errors.Is(err, tt.err) || has != tt.mac || trust {
				t.Errorf("error %v, MAC %v, trust %v; want %v, %v, false", err, has, trust, tt.err, tt.mac)
			}
		})
	}
	if mac := (Baseline{}).spareMAC(); mac.IsZero() || mac[0]&3 != 2 {
		t.Errorf("%v for a VF whose own was never seen", mac)
	}
	if mac := (Baseline{Netdev: &vf.Netdev{MAC: own}}).spareMAC(); mac != own {
		t.Errorf("%v, want %v", mac, own)
	}
}

func TestSameIPAM(t *testing.T) {
	const given = `{"type": "sriov", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}`
	for _, tt := range []struct {
		other string
		same  bool
	}{
		{`{"vlan": 7, "ipam": {"subnet": "10.0.0.0/24", "type": "host-local"}}`, true},
		{`{"type": "sriov", "ipam": {"type": "host-local", "subnet": "10.0.1.0/24"}}`, false},
		{`{"type": "sriov", "ipam": {}}`, false},
		{`{"type": "sriov"}`, false},
		{`no JSON`, false},
	} {
		if got := sameIPAM([]byte(given), []byte(tt.other)); got != tt.same {
			t.Errorf("%s: %v", tt.other, got)
		}
	}
}

// Who has bound a VF to another driver since keeps it, and what he has set on its PF.
func TestUnderAnotherDriver(t *testing.T) {
	own := vf.MAC{2, 0, 0, 0, 0, 1}
	r := &Record{
		Baseline: Baseline{
			Settings: vf.Settings{MAC: &own, VLAN: &vf.Untagged, Trust: new(false), SpoofCheck: new(true), LinkState: new(vf.LinkAuto)},
			Netdev:   &vf.Netdev{Name: "eth5", MAC: own},
		},
		Wanted: vf.Settings{MAC: &vf.MAC{2, 0, 0, 0, 0, 9}, VLAN: &vf.VLAN{ID: 100}, Trust: new(true), SpoofCheck: new(false)},
	}
	// The VLAN is another one by now; trust is not shown; the link state was never ours.
	have := vf.Settings{MAC: r.Wanted.MAC, VLAN: &vf.VLAN{ID: 7}, SpoofCheck: new(false), LinkState: new(vf.LinkEnable)}
	want := Baseline{Settings: vf.Settings{MAC: new(vf.MAC), Trust: new(false), SpoofCheck: new(true)}}
	if diff := cmp.Diff(want, r.Baseline.under(have, r)); diff != "" {
		t.Error(diff)
	}
}

// A driver that somebody has given the VF since is not taken away again, whether it is bound already or only promised.
func TestReboundIsNotFought(t *testing.T) {
	tests := map[string]struct {
		driver, override string
		rebound          bool
	}{
		"as before":                        {"igbvf", "", false},
		"as before, and pinned to that":    {"igbvf", "igbvf\n", false},
		"vfio-pci":                         {"vfio-pci", "vfio-pci\n", true},
		"none: it may be us who were":      {"", "(null)\n", false},
		"none, and it is vfio-pci's next":  {"", "vfio-pci\n", true},
		"another network driver, no label": {"iavf", "", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, tree, dir := owed(t, func(r *Record) { r.Phase = Removing })
			p.ReturnWait, p.RebindWait = time.Millisecond, time.Millisecond
			const key = "0000:02:10.0"
			tree.RemoveNet(key, "ens2v0")
			tree.Bind(key, tt.driver)
			tree.Write(tree.Dir(key)+"/driver_override", tt.override)
			for _, driver := range []string{"igbvf", "vfio-pci", "iavf"} {
				tree.Write("sys/bus/pci/drivers/"+driver+"/module", "")
			}
			c := ipamCall(t, p, dir, owedConf)
			err := p.del(t.Context(), c) // this tree's PF sets nothing
			if codeOf(err, 0) != types.ErrTryAgainLater {
				t.Errorf("got %v with code %d, want code 11", err, codeOf(err, 0))
			}
			files, globErr := filepath.Glob(filepath.Join(tree.Root, "sys/bus/pci/drivers/*/*bind"))
			if globErr != nil {
				t.Fatal(globErr)
			}
			if (len(files) == 0) != tt.rebound {
				t.Errorf("driver %q, promised to %q: written to %v", tt.driver, tt.override, files)
			}
		})
	}
}

// The first code in the order of the errors counts, whoever gave it; what has none, or the code 0, does not.
func TestCodeOf(t *testing.T) {
	plain := errors.New("plain")
	own := &codedError{types.ErrTryAgainLater, plain}
	theirs := types.NewError(types.ErrIOFailure, "x", "")
	tests := map[string]struct {
		err  error
		want uint
	}{
		"none":                    {nil, 0},
		"without a code":          {plain, 0},
		"ours first":              {errors.Join(plain, own, theirs), types.ErrTryAgainLater},
		"theirs first":            {errors.Join(theirs, own), types.ErrIOFailure},
		"theirs first, in depth":  {errors.Join(fmt.Errorf("a: %w", errors.Join(plain, fmt.Errorf("b: %w", theirs))), own), types.ErrIOFailure},
		"theirs without one":      {errors.Join(&types.Error{Msg: "y"}, own), types.ErrTryAgainLater},
		"a code once more":        {coded(types.ErrIOFailure, fmt.Errorf("c: %w", own)), types.ErrTryAgainLater},
		"what had none, with one": {coded(types.ErrIOFailure, plain), types.ErrIOFailure},
	}
	for name, tt := range tests {
		if got := codeOf(tt.err, 0); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// Where it cannot be seen who has a VF nobody is taken for granted.
func TestNotKnowingWhereIsNoAnswer(t *testing.T) {
	p, tree, dir := owed(t, nil)
	address := pci.Address{Bus: 2, Device: 16}
	tree.RemoveNet(address.String(), "ens2v0")
	if err := os.Truncate(filepath.Join(p.Records.Dir, address.String()+".json"), 30); err != nil {
		t.Fatal(err)
	}
	// This tree has no processes to look at.
	c := ipamCall(t, p, dir, owedConf)
	d, err := p.open(t.Context(), address, p.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.claim(t.Context(), c); codeOf(err, 0) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "list network namespaces") {
		t.Errorf("ADD: %v, want code 11", err)
	}
	if r, err := d.salvageForDel(c, errors.New("corrupt")); r != nil || err != nil {
		t.Errorf("DEL: %v, %v; want it untouched", r, err)
	}
	if err := d.inUse(sample()); err == nil {
		t.Error("vfctl restore: nobody uses it")
	}
}
