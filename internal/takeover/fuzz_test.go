package takeover_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/internal/takeover/takeovertest"
)

// What is read is whole, and nothing is read from, or would be removed, outside of the folder.
func FuzzSaved(f *testing.F) {
	root := takeovertest.Node(f, nil)
	multus, sriov := folders(root)
	for _, file := range []string{
		filepath.Join(string(multus), id),
		filepath.Join(string(multus), "results", "sriov-net-"+id+"-net1"),
		filepath.Join(string(sriov), id+"-net1"),
	} {
		seed, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	for _, before := range []string{`{"HostIFName":"../../x"}`, `{"HostIFName":"\u0000"}`, `{"Vlan":-1}`, `{"MTU":1e99}`, `{"MinTxRate":-9223372036854775808}`, `null`, `[]`} {
		f.Add([]byte(`{"deviceID":"` + takeovertest.VF1 + `","name":"../../x","OrigVfState":` + before + `}`))
	}
	f.Add([]byte(`[{"Name":"x","Bytes":"eyJuYW1lIjoiLi4vLi4veCJ9"}]`))
	dir := f.TempDir()
	for _, path := range []string{"multus/results", "sriov/pci"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, s := takeover.Multus(filepath.Join(dir, "multus")), takeover.SRIOV(filepath.Join(dir, "sriov"))
		for _, path := range []string{"multus/c1", "multus/results/n-c1-net1", "sriov/c1-net1", "sriov/pci/" + takeovertest.VF1} {
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		delegates, err := m.Sandbox("c1", "eth0")
		if err != nil && !errors.Is(err, takeover.ErrCorrupt) {
			t.Errorf("Multus: %v", err)
		}
		for _, d := range delegates {
			if d.IfName == "" || !json.Valid(d.Config) || d.Entry != "" && filepath.Dir(d.Entry) != filepath.Join(dir, "multus/results") {
				t.Errorf("%+v", d)
			}
		}
		now, older, err := s.VF(takeovertest.VF1)
		empty := len(bytes.TrimSpace(data)) == 0 // a VF that was only locked
		if err != nil && !errors.Is(err, takeover.ErrCorrupt) && (!empty || !errors.Is(err, takeover.ErrNotExist)) {
			t.Errorf("sriov-cni: %v", err)
		}
		if err == nil && (now.ContainerID != "c1" || now.IfName != "net1" || len(older) != 0) {
			t.Errorf("%+v, %+v", now, older)
		}
		if err == nil && (strings.ContainsAny(now.Before.HostIFName, "/: \n") || len(now.Before.HostIFName) > 15 || now.Before.Vlan&^4095 != 0 || now.Before.MTU < 0) {
			t.Errorf("no VF was ever so: %+v", now.Before)
		}
		if errors.Is(err, takeover.ErrCorrupt) && (now == nil || now.ContainerID != "") {
			t.Errorf("an owner out of what cannot be read: %+v", now)
		}
		path, err := s.SetAside(takeovertest.VF1)
		if err != nil || filepath.Dir(path) != filepath.Join(dir, "sriov/viaduct-corrupt") {
			t.Errorf("set aside to %q: %v", path, err)
		}
		if now, _, err := s.VF(takeovertest.VF1); !errors.Is(err, takeover.ErrNotExist) {
			t.Errorf("set aside, it is still there: %+v, %v", now, err)
		}
	})
}
