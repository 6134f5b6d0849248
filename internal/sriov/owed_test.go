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

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

const owedConf = `{"cniVersion":"1.1.0","name":"n","type":"sriov","deviceID":"0000:02:10.0","ipam":{"type":"stand-in"},"cni.dev/valid-attachments":[]}`

// owed is a tree with one VF, its record that says that c1 has it, and an IPAM plugin that fails while there is a file
// "fail" beside it.
func owed(t *testing.T, change func(*Record)) (p *Plugin, tree pcitest.Tree, dir string) {
	t.Helper()
	p, tree = newPlugin(t), pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 1)
	tree.Write("proc/sys/kernel/random/boot_id", "b")
	p.Root = tree.Root
	dir = script(t, `echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$0.calls"; if [ -e "${0%/*}/fail" ]; then echo '{"code":7,"msg":"store not found"}'; exit 1; fi`)
	r := sample()
	r.Owner, r.Netns.Path = Owner{"c1", "net1", "n"}, "/run/netns/none"
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(tree.Root, "sys/bus/pci/devices/0000:02:10.0"), &st); err != nil {
		t.Fatal(err)
	}
	r.Identity = Identity{PF: pci.Address{Bus: 2}, Driver: "igbvf", NumVFs: 1, Node: st.Ino}
	r.Invocation = &Invocation{Config: []byte(owedConf), Path: dir}
	if change != nil {
		change(r)
	}
	if err := p.Records.Write("0000:02:10.0", r); err != nil {
		t.Fatal(err)
	}
	return p, tree, dir
}

func calls(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "stand-in.calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// The addresses of a VF that is no more stay on record until the IPAM plugin has taken them back, or an operator gives them up.
func TestAddressesOfAGoneVF(t *testing.T) {
	vf := pci.Address{Bus: 2, Device: 16}
	verbs := map[string]func(*Plugin, string) error{
		"DEL": func(p *Plugin, dir string) error {
			return p.Del(t.Context(), ipamCall(t, p, dir, owedConf).CmdArgs)
		},
		"GC": func(p *Plugin, dir string) error {
			c := ipamCall(t, p, dir, owedConf)
			return p.collect(t.Context(), c, vf.String())
		},
		"restore": func(p *Plugin, _ string) error {
			_, err := p.Restore(t.Context(), vf, false)
			return err
		},
	}
	for name, verb := range verbs {
		for _, missing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the plugin is missing %v", name, missing), func(t *testing.T) {
				p, tree, dir := owed(t, nil)
				tree.RemoveVFs("0000:02:00.0")
				spoil, mend := filepath.Join(dir, "fail"), func(path string) error { return os.Remove(path) }
				if missing {
					spoil = filepath.Join(dir, "away")
					mend = func(away string) error { return os.Rename(away, filepath.Join(dir, "stand-in")) }
					if err := os.Rename(filepath.Join(dir, "stand-in"), spoil); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(spoil, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := verb(p, dir); err == nil {
					t.Error("no error, although the addresses are still taken")
				}
				if r, err := readRecord(p.Records, vf.String()); err != nil || r.Invocation == nil {
					t.Fatalf("the record that could release them is not kept: %v, %v", r, err)
				}
				if err := mend(spoil); err != nil {
					t.Fatal(err)
				}
				if err := verb(p, dir); err != nil {
					t.Errorf("with a plugin that works: %v", err)
				}
				if !strings.HasSuffix(calls(t, dir), "DEL c1") {
					t.Errorf("the IPAM plugin was asked: %q", calls(t, dir))
				}
				nothingLeft(t, p)
			})
		}
	}
	t.Run("given up", func(t *testing.T) {
		p, tree, dir := owed(t, nil)
		tree.RemoveVFs("0000:02:00.0")
		if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Restore(t.Context(), vf, true); got != Gone || err != nil {
			t.Errorf("by force: %q, %v", got, err)
		}
		nothingLeft(t, p)
	})
}

func nothingLeft(t *testing.T, p *Plugin) {
	t.Helper()
	entries, err := os.ReadDir(p.Records.Dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left in the state folder: %v, %v", entries, err)
	}
}

// A record of before the last boot is dropped with the next verb, but for addresses that are still taken: they keep nobody
// waiting, and are tried again with the next one.
func TestAddressesOfAnotherBoot(t *testing.T) {
	const key = "0000:02:10.0"
	p, _, dir := owed(t, func(r *Record) { r.Boot = "b-before" })
	fail := filepath.Join(dir, "fail")
	if err := os.WriteFile(fail, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Of another pod, on a network that has no addresses to give.
	c := ipamCall(t, p, dir, strings.Replace(owedConf, `,"ipam":{"type":"stand-in"}`, "", 1))
	c.ContainerID = "c2"
	for range 2 {
		if err := p.Del(t.Context(), c.CmdArgs); err != nil {
			t.Errorf("an unrelated DEL: %v", err)
		}
		r, err := readRecord(p.Records, key)
		if err != nil || r.Phase != Free || r.Boot != "b" || len(r.Owed.Leases) != 1 || r.Owed.Leases[0].Owner.ContainerID != "c1" {
			t.Fatalf("the record that could release them is %+v, %v", r, err)
		}
	}
	gc := func() error { return p.GC(t.Context(), ipamCall(t, p, dir, owedConf).CmdArgs) }
	if err := gc(); err == nil || !strings.Contains(err.Error(), "vfctl restore --force "+key) {
		t.Errorf("GC: %v, want what is still owed and what to do", err)
	}
	if r, err := readRecord(p.Records, key); err != nil || !p.Dead(r) {
		t.Errorf("vfctl gc passes it over: %+v, %v", r, err)
	}
	// An attachment on another VF that has those addresses by now releases them with its own DEL.
	serving := sample()
	serving.Boot, serving.Owner = "b", Owner{"c1", "net1", "n"}
	if err := errors.Join(os.Remove(fail), p.Records.Write("0000:02:10.2", serving)); err != nil {
		t.Fatal(err)
	}
	asked := calls(t, dir)
	r, err := readRecord(p.Records, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.pay(t.Context(), p.Log, key, r); err != nil || calls(t, dir) != asked || len(r.Owed.Leases) != 0 {
		t.Errorf("with a living attachment of the same container: %v, %v, asked %q", err, r.Owed, calls(t, dir))
	}
	if err := p.Records.Remove("0000:02:10.2"); err != nil {
		t.Fatal(err)
	}
	if err := gc(); err != nil {
		t.Error(err)
	}
	if calls(t, dir) != asked+"\nDEL c1\nGC c1" {
		t.Errorf("the IPAM plugin was asked: %q", calls(t, dir))
	}
	if _, err := readRecord(p.Records, key); !errors.Is(err, journal.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
}

// The late DEL of the pod itself releases what is owed of it.
func TestOwnDelAfterAll(t *testing.T) {
	p, _, dir := owed(t, func(r *Record) {
		r.Owed.add(Lease{Owner: r.Owner, Invocation: r.Invocation})
		r.Owed.add(Lease{Owner: Owner{"c0", "net1", "n"}, Invocation: r.Invocation})
		r.Phase, r.Owner, r.Invocation = Free, Owner{}, nil
	})
	if err := p.Del(t.Context(), ipamCall(t, p, dir, owedConf).CmdArgs); err != nil {
		t.Error(err)
	}
	r, err := readRecord(p.Records, "0000:02:10.0")
	if err != nil || len(r.Owed.Leases) != 1 || r.Owed.Leases[0].Owner.ContainerID != "c0" {
		t.Errorf("owed: %+v, %v", r, err)
	}
	if got := calls(t, dir); got != "DEL c1" {
		t.Errorf("the IPAM plugin was asked: %q", got)
	}
}

// A record does not grow without bounds.
func TestOwedIsBounded(t *testing.T) {
	var o Owed
	for i := range maxLeases + 1 {
		if got := o.add(Lease{Owner: Owner{ContainerID: fmt.Sprint(i), IfName: "net1"}}); got != (i < maxLeases) {
			t.Errorf("lease %d: room is %v", i, got)
		}
	}
	if !o.add(Lease{Owner: Owner{ContainerID: "3", IfName: "net1"}}) || len(o.Leases) != maxLeases {
		t.Errorf("one that is there already: %d leases", len(o.Leases))
	}
}

// What cannot be read of a VF that is no more is kept aside, and nothing else stays; an operator has to mean it.
func TestUnreadableRecordOfAGoneVF(t *testing.T) {
	vf := pci.Address{Bus: 2, Device: 16}
	p, tree, _ := owed(t, nil)
	tree.RemoveVFs("0000:02:00.0")
	file := func(suffix string) string { return filepath.Join(p.Records.Dir, vf.String()+suffix) }
	if err := errors.Join(os.Truncate(file(".json"), 30), os.WriteFile(file(".cancel"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Restore(t.Context(), vf, false); !errors.Is(err, ErrUnreadable) {
		t.Errorf("without force: %v", err)
	}
	if got, err := p.Restore(t.Context(), vf, true); got != Gone || err != nil {
		t.Errorf("by force: %q, %v", got, err)
	}
	entries, err := os.ReadDir(p.Records.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if d := cmp.Diff([]string{vf.String() + ".corrupt-1"}, names); d != "" {
		t.Error(d)
	}
}

// A DEL to which the VF does not belong has nothing to ask of its PF, which may have no interface.
func TestDelWithoutAPF(t *testing.T) {
	tests := map[string]struct {
		change func(*Record)
		code   uint
	}{
		"free":                 {func(r *Record) { r.Phase, r.Owner = Free, Owner{} }, 0},
		"another owner's":      {func(r *Record) { r.Owner.ContainerID = "c2" }, 0},
		"of before the reboot": {func(r *Record) { r.Boot = "b-before" }, 0},
		"its own":              {nil, 11},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, tree, dir := owed(t, tt.change)
			tree.RemoveNet("0000:02:00.0", "ens2")
			err := p.Del(t.Context(), ipamCall(t, p, dir, owedConf).CmdArgs)
			if got := codeOf(err, 0); got != tt.code {
				t.Errorf("got %v, want code %d", err, tt.code)
			}
			if got := calls(t, dir); got != "DEL c1" {
				t.Errorf("the IPAM plugin was asked: %q", got)
			}
		})
	}
	t.Run("no record", func(t *testing.T) {
		p, tree, dir := owed(t, nil)
		tree.RemoveNet("0000:02:00.0", "ens2")
		if err := p.Records.Remove("0000:02:10.0"); err != nil {
			t.Fatal(err)
		}
		if err := p.Del(t.Context(), ipamCall(t, p, dir, owedConf).CmdArgs); err != nil {
			t.Error(err)
		}
	})
}

// A DEL that has to wait for everything ends before whoever calls it gives up, and hands over to the next one first.
func TestWaits(t *testing.T) {
	p := New(t.TempDir(), slog.New(slog.DiscardHandler))
	const minute, settle = time.Minute, 3 * time.Second // of vf.Settle
	if all := p.LockWait + p.IPAMWait + leaseWait + p.ReturnWait + p.RebindWait + settle; all >= minute {
		t.Errorf("they add up to %v", all)
	}
	if p.LockWait >= p.IPAMWait {
		t.Errorf("a DEL waits %v for an ADD whose IPAM plugin may hang for %v, and cannot call it off", p.LockWait, p.IPAMWait)
	}
}

// No DEL that failed answers in words that containerd takes for success.
func TestDelErrorIsNoSuccess(t *testing.T) {
	for _, words := range []string{"not found", "no such file or directory"} {
		p := newPlugin(t)
		dir := script(t, `echo '{"code":7,"msg":"lease `+words+`","details":"`+words+`"}'; exit 1`)
		err := p.Del(t.Context(), ipamCall(t, p, dir, `{"name":"n","type":"sriov","ipam":{"type":"stand-in"}}`).CmdArgs)
		if err == nil || strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "lease ") {
			t.Errorf("got %v", err)
		}
	}
}
