//go:build lab

package sriov_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var ipamDir string

// cniPath is a folder with the IPAM plugin: the helper, under its name.
func cniPath() string {
	if ipamDir != "" {
		return ipamDir
	}
	dir := "/run/test-cni"
	self, err := filepath.Abs(*helper)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		if err = os.Symlink(self, filepath.Join(dir, "test-ipam")); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		panic(err)
	}
	ipamDir = dir
	return dir
}

func leaseFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(leases)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// The IPAM plugin of a dead owner fails, here for it is not installed any more: its VF is put back and
// given to the next pod all the same, and the addresses stay on its record until they are released.
func TestOwedAddresses(t *testing.T) {
	n := newNode(t)
	d := n.vfs[0]
	before := n.state(d)
	old, next := n.newPod(), n.newPod()
	old.call("ADD", old.conf(d, full())).must(t)
	old.kill()
	ipam := filepath.Join(cniPath(), "test-ipam")
	if err := os.Rename(ipam, ipam+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(ipam+".away", ipam) })
	gc := old.call("GC", old.conf(d, conf{"cni.dev/valid-attachments": []any{}}))
	for _, verb := range []string{"GC", "ADD", "DEL", "GC"} {
		if verb == "GC" {
			_, err := gc.run(t)
			wantCode(t, err, 11, "test-ipam", "vfctl restore --force "+d.Address.String())
		} else {
			next.call(verb, next.conf(d, nil)).must(t)
		}
		if verb != "ADD" {
			if diff := cmp.Diff(before, n.state(d)); diff != "" {
				t.Errorf("after %s: %s", verb, diff)
			}
		}
		if leased, owed := len(leaseFiles(t)), len(owing(t)); leased != 1 || owed != 1 {
			t.Errorf("after %s: %d leases and %d records that owe one, want one each", verb, leased, owed)
		}
	}
	if err := os.Rename(ipam+".away", ipam); err != nil {
		t.Fatal(err)
	}
	next.call("ADD", next.conf(d, nil)).must(t)
	next.call("DEL", next.conf(d, nil)).must(t)
	if err := n.leftovers(d, before); err != nil {
		t.Error(err)
	}
}
