//go:build lab

package sriov_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

// beIPAM answers one call. Its "ipam" section may say "addresses", "hang": "ADD", "fail": "DEL", and a file in "until" ends
// its hanging.
func beIPAM() error {
	var in struct {
		IPAM struct {
			Addresses []string `json:"addresses"`
			Hang      string   `json:"hang"`
			Fail      string   `json:"fail"`
			Until     string   `json:"until"`
		} `json:"ipam"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	verb, lease := os.Getenv("CNI_COMMAND"), filepath.Join(leases, os.Getenv("CNI_CONTAINERID")+"-"+os.Getenv("CNI_IFNAME"))
	if in.IPAM.Fail == verb {
		return errors.New("told to fail")
	}
	switch verb {
	case "ADD":
		if err := os.WriteFile(lease, nil, 0o600); err != nil {
			return err
		}
	case "GC": // of everything
		if err := os.RemoveAll(leases); err != nil {
			return err
		}
		return os.Mkdir(leases, 0o700)
	case "DEL":
		if err := os.Remove(lease); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if in.IPAM.Hang == verb {
		if _, err := eventually(func() (fs.FileInfo, error) { return os.Stat(in.IPAM.Until) }); err != nil {
			return err
		}
	}
	if verb != "ADD" {
		return nil
	}
	r := &types100.Result{CNIVersion: "1.0.0"}
	for _, a := range in.IPAM.Addresses {
		n, err := types.ParseCIDR(a)
		if err != nil {
			return err
		}
		r.IPs = append(r.IPs, &types100.IPConfig{Address: *n})
	}
	return r.Print()
}

var ipamDir string

// cniPath is a folder with the IPAM plugin.
func cniPath() string {
	if ipamDir != "" {
		return ipamDir
	}
	dir := "/run/test-cni"
	self, err := os.Executable()
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

// The IPAM plugin of a dead owner fails, here for it is not installed any more: its VF is put back all the same, and its
// record stays open until the addresses are released too.
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
	gc := old.conf(d, conf{"cni.dev/valid-attachments": []any{}})
	for _, call := range []invocation{next.call("ADD", next.conf(d, nil)), old.call("GC", gc)} {
		_, err := call.run(t)
		wantCode(t, err, 11, "test-ipam", "vfctl restore --force "+d.Address.String())
		if diff := cmp.Diff(before, n.state(d)); diff != "" {
			t.Errorf("after %s: %s", call.verb, diff)
		}
		if leased, open := len(leaseFiles(t)), len(openRecords(t)); leased != 1 || open != 1 {
			t.Errorf("after %s: %d leases and %d open records, want one each", call.verb, leased, open)
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
