package sriov

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func sample() *Record {
	return &Record{
		Boot: "b", Phase: Attached, Owner: Owner{"c", "net1", "n"}, Netns: Place{"/run/netns/x", netns.ID{Device: 1, Inode: 2, Cookie: 3}},
		Identity: Identity{PF: pci.Address{Bus: 2}, Index: 4, Driver: "igbvf", NumVFs: 7},
		Baseline: Baseline{Settings: vf.Defaults(), Netdev: &vf.Netdev{Index: 5, Name: "eth5", AltNames: []string{"enp2s0v4"}, MTU: 1500}},
		Wanted:   vf.Settings{Trust: new(true)},
	}
}

// Nothing is lost on the way to the disk and back.
func TestRecordRoundTrip(t *testing.T) {
	s := DefaultRecords(t.TempDir())
	if err := s.Write("0000:02:10.4", sample()); err != nil {
		t.Fatal(err)
	}
	got, err := readRecord(s, "0000:02:10.4")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Error(d)
	}
}

func TestRecordRefuses(t *testing.T) {
	tests := map[string]func(*Record){
		"no owner":      func(r *Record) { r.Owner = Owner{} },
		"unknown phase": func(r *Record) { r.Phase = "x" },
		"no boot":       func(r *Record) { r.Boot = "" },
	}
	for name, breakIt := range tests {
		t.Run(name, func(t *testing.T) {
			s := DefaultRecords(t.TempDir())
			r := sample()
			breakIt(r)
			if err := s.Write("k", r); err != nil {
				t.Fatal(err)
			}
			if _, err := readRecord(s, "k"); !errors.Is(err, journal.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

// A record that was cut off anywhere is corrupt: never another one, never none.
func TestRecordCutOff(t *testing.T) {
	s := DefaultRecords(t.TempDir())
	if err := s.Write("k", sample()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir, "k.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.Truncate(path, int64(len(whole)-1-n)); err != nil {
			t.Fatal(err)
		}
		if r, err := readRecord(s, "k"); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v, %v; want ErrCorrupt", len(whole)-1-n, len(whole), r, err)
		}
	}
}

// A network definition must not make root write where its author pleases.
func TestOpenLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "link")), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "folder"))); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		file string
		used bool
	}{
		"below":              {filepath.Join(dir, "a.log"), true},
		"elsewhere":          {outside, false},
		"out by dots":        {dir + "/../victim", false},
		"through a link":     {filepath.Join(dir, "link"), false},
		"in a linked folder": {filepath.Join(dir, "folder/victim"), false},
		"the folder itself":  {dir, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr strings.Builder
			log, closer := OpenLog([]byte(`{"logFile":"`+tt.file+`","logLevel":"debug"}`), dir, &stderr)
			log.Debug("hello")
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
			if used := !strings.Contains(stderr.String(), "hello"); used != tt.used {
				t.Errorf("used %v, want %v; stderr %q", used, tt.used, stderr.String())
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("the file outside was made")
			}
		})
	}
	if level, err := parseLevel("Warning"); level != slog.LevelWarn || err != nil {
		t.Errorf("Warning is %v, %v", level, err)
	}
}

func TestSite(t *testing.T) {
	tests := map[string]struct {
		content string
		mode    os.FileMode
		want    Site
		ok      bool
	}{
		"settings":           {`{"stateDir":"/s"}`, 0o644, Site{"/s", DefaultLog}, true},
		"writable by others": {`{}`, 0o666, Site{DefaultDir, DefaultLog}, false},
		"relative":           {`{"stateDir":"s"}`, 0o644, Site{"s", DefaultLog}, false},
		"a typing error":     {`{"statedirectory":"/s"}`, 0o644, Site{DefaultDir, DefaultLog}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sriov.json")
			if err := errors.Join(os.WriteFile(path, []byte(tt.content), tt.mode), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			got, err := ReadSite(path)
			if (err == nil) != tt.ok {
				t.Fatalf("error %v, want ok %v", err, tt.ok)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	if got, err := ReadSite(filepath.Join(t.TempDir(), "none")); err != nil || got != (Site{DefaultDir, DefaultLog}) {
		t.Errorf("no file: %v, %v", got, err)
	}
}

// A driver that takes trust and does not show it: what an attachment sets goes back to the safe default, and what it leaves
// alone is left alone.
func TestUndoable(t *testing.T) {
	shown := vf.Settings{MAC: new(vf.MAC), VLAN: &vf.VLAN{ID: 7, Proto: vf.Proto8021Q}}
	wanted := vf.Settings{VLAN: &vf.VLAN{ID: 100, Proto: vf.Proto8021Q}, Trust: new(true), SpoofCheck: new(false)}
	baseline := undoable(shown, wanted)
	if d := cmp.Diff(shown.With(vf.Settings{Trust: new(false), SpoofCheck: new(true)}), baseline); d != "" {
		t.Error(d)
	}
	want := vf.Settings{VLAN: shown.VLAN, Trust: new(false), SpoofCheck: new(true)}
	if d := cmp.Diff(want, vf.Plan(baseline.With(wanted), baseline)); d != "" {
		t.Errorf("what DEL puts back: %s", d)
	}
	// An ADD that was killed: DEL looks, and the driver still does not show it.
	if d := cmp.Diff(want, vf.Plan(shown.With(vf.Settings{VLAN: wanted.VLAN}), baseline)); d != "" {
		t.Errorf("what DEL puts back after a kill: %s", d)
	}
}

// DEL lets the VF choose its MAC until it has its own back, and leaves an entry alone that was not changed.
func TestInterimMAC(t *testing.T) {
	mac, other := vf.MAC{2, 0, 0, 0, 0, 1}, vf.MAC{2, 0, 0, 0, 0, 2}
	with := func(pf *vf.MAC, dev *vf.Netdev) Baseline {
		return Baseline{Settings: vf.Settings{MAC: pf}, Netdev: dev}
	}
	tests := map[string]struct {
		baseline Baseline
		have     vf.MAC
		want     *vf.MAC
	}{
		"the PF showed the VF's own, and it was changed": {with(&mac, &vf.Netdev{MAC: mac}), other, &vf.MAC{}},
		"the PF showed the VF's own":                     {with(&mac, &vf.Netdev{MAC: mac}), mac, nil},
		"another was set on the PF":                      {with(&mac, &vf.Netdev{MAC: other}), other, &vf.MAC{}},
		"none was":                                       {with(&vf.MAC{}, &vf.Netdev{MAC: mac}), other, &vf.MAC{}},
		"no interface":                                   {with(&mac, nil), other, &mac},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := interim(tt.baseline, vf.Settings{MAC: &tt.have})
			if d := cmp.Diff(tt.want, got.MAC); d != "" {
				t.Error(d)
			}
		})
	}
}
