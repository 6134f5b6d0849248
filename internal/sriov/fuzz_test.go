package sriov

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
)

// Whatever is in a record's file is read, or refused as what it is; what was read comes back from the disk as it went.
func FuzzRecord(f *testing.F) {
	s := DefaultRecords(f.TempDir())
	if err := s.Write("k", sample()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(s.Dir, "k.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1))
	f.Add(bytes.Replace(whole, []byte(`"attached"`), []byte(`"free"`), 1))
	f.Add([]byte(`{"version":1,"record":{"boot":"b","phase":"removing","salvaged":true}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &Record{}
		err := s.Parse("k.json", data, r)
		if err == nil {
			err = r.check()
		}
		if err != nil {
			if !errors.Is(err, journal.ErrCorrupt) && !errors.Is(err, journal.ErrVersion) {
				t.Errorf("neither corrupt nor of another version: %v", err)
			}
			return
		}
		// What the verbs ask of a record before they act on it.
		interim(r.Baseline, r.Baseline.Settings.With(r.Wanted))
		_, _ = r.Baseline.ownMAC(), r.Identity.isOf(Identity{})
		again := &Record{}
		if err := s.Parse("again", []byte(`{"version":1,"record":`+asJSON(t, r)+`}`), again); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		if d := cmp.Diff(asJSON(t, r), asJSON(t, again)); d != "" {
			t.Error(d)
		}
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A prevResult is what another program says that we said.
func FuzzPrevResult(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}}`,
		`{"cniVersion":"0.2.0","prevResult":{"ip4":{"ip":"10.0.0.1/24","routes":[{"dst":"0.0.0.0/0"}]}}}`,
		`{"cniVersion":"1.0.0","prevResult":{"ips":[null],"routes":[null],"interfaces":[null]}}`,
		`{"prevResult":{"ips":[{}]}}`, `{"prevResult":{"ips":[{"address":null}]}}`, `{"prevResult":{"routes":[{}]}}`,
		`{"prevResult":{"ip4":{"ip":"10.0.0.1/24"}}}`, `{"prevResult":{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.1/24"}]}}`,
		`{"prevResult":null}`, `{"prevResult":7}`, `{}`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c := &call{CmdArgs: &cni.CmdArgs{StdinData: stdin}, cfg: &Config{CNIVersion: "1.1.0"}}
		result, err := c.previous()
		if err != nil {
			if codeOf(err, 0) != 6 {
				t.Errorf("code %d for %v, want 6", codeOf(err, 0), err)
			}
			return
		}
		if result == nil {
			return
		}
		for _, ip := range result.IPs {
			if ip == nil || ip.Address.IP == nil {
				t.Error("a null among the addresses")
			}
		}
		for _, r := range result.Routes {
			if r == nil || r.Dst.IP == nil {
				t.Error("a null among the routes")
			}
		}
	})
}
