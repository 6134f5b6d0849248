package vf

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ip runs ip(8) in the namespace of the test's thread.
func ip(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

// twoNetns gives connections to two namespaces; the test's thread is in the second.
func twoNetns(t *testing.T) (there, here *Conn) {
	t.Helper()
	there = newNetns(t)
	return there, newNetns(t)
}

// named finds an interface by its name; the index 0 means that there is none.
func named(t *testing.T, c *Conn, name string) Netdev {
	t.Helper()
	links, err := c.get(c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == name {
			return l.Netdev
		}
	}
	return Netdev{}
}

func names(t *testing.T, c *Conn) (all []string) {
	t.Helper()
	links, err := c.get(c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name != "lo" && !strings.HasPrefix(l.Name, "p-") {
			all = append(all, l.Name)
		}
	}
	return all
}

// What the kernel does with a move, by the rules that hold for every interface: a veth moves like a VF.
func TestMove(t *testing.T) {
	t.Run("renamed, with MTU, up, in one message", func(t *testing.T) {
		there, here := twoNetns(t)
		ip(t, "link add vf0 type veth peer name p-vf0")
		if err := here.Move(named(t, here, "vf0").Index, there, Arrival{Name: "net1", MTU: 1400, Up: true}); err != nil {
			t.Fatal(err)
		}
		if dev := named(t, there, "net1"); dev.Index == 0 || dev.MTU != 1400 || !dev.Up {
			t.Errorf("it arrived as %+v", dev)
		}
		if d := cmp.Diff(Count{Moves: 1}, here.Count); d != "" {
			t.Error(d)
		}
	})
	t.Run("its new name is taken there", func(t *testing.T) {
		there, here := twoNetns(t)
		ip(t, "link add net1 type veth peer name p-net1", "link add vf0 type veth peer name p-vf0")
		if err := here.Move(named(t, here, "net1").Index, there, Arrival{}); err != nil {
			t.Fatal(err)
		}
		err := here.Move(named(t, here, "vf0").Index, there, Arrival{Name: "net1"})
		if !errors.Is(err, ErrExists) {
			t.Errorf("got %v, want ErrExists", err)
		}
		// It is in one of the two, and nowhere twice: that is why callers look in both.
		if all := append(names(t, here), names(t, there)...); len(all) != 2 {
			t.Errorf("the two namespaces have %v", all)
		}
	})
	t.Run("an alternative name is taken there", func(t *testing.T) {
		there, here := twoNetns(t)
		ip(t, "link add other type veth peer name p-other", "link property add dev other altname taken")
		if err := here.Move(named(t, here, "other").Index, there, Arrival{}); err != nil {
			t.Fatal(err)
		}
		ip(t, "link add vf0 type veth peer name p-vf0", "link property add dev vf0 altname taken altname mine")
		dev := named(t, here, "vf0")
		if err := here.Move(dev.Index, there, Arrival{Name: "net1"}); !errors.Is(err, ErrExists) {
			t.Errorf("got %v, want ErrExists", err)
		}
		if named(t, here, "vf0").Index == 0 {
			t.Fatal("it moved")
		}
		if taken, err := there.HasName("taken"); !taken || err != nil {
			t.Errorf("HasName of an alternative name: %v, %v", taken, err)
		}
		err := errors.Join(here.DropAltNames(dev, []string{"mine"}), here.Move(dev.Index, there, Arrival{Name: "net1"}))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"mine"}, named(t, there, "net1").AltNames); d != "" {
			t.Errorf("alternative names there: %s", d)
		}
	})
	t.Run("it was renamed meanwhile", func(t *testing.T) {
		there, here := twoNetns(t)
		ip(t, "link add vf0 type veth peer name p-vf0")
		dev := named(t, here, "vf0")
		ip(t, "link set vf0 name enp2s0v0")
		if err := here.Move(dev.Index, there, Arrival{Name: "net1"}); err != nil {
			t.Error(err)
		}
	})
	t.Run("it is gone", func(t *testing.T) {
		there, here := twoNetns(t)
		if err := here.Move(4711, there, Arrival{Name: "net1"}); !errors.Is(err, ErrNoDevice) {
			t.Errorf("got %v, want ErrNoDevice", err)
		}
	})
}

// Everything that whoever had it may have changed is put back, and a thing that cannot be does not keep the others.
func TestReset(t *testing.T) {
	spoil := []string{
		"link set vf0 name mine", "link set mine address 02:00:00:00:00:99 mtu 1300 alias hello group 7 txqueuelen 17 promisc on allmulticast on arp off",
		"link set mine gso_max_size 1500 gso_max_segs 3", "link property add dev mine altname extra", "link property del dev mine altname own", "link set mine up",
	}
	t.Run("all of it", func(t *testing.T) {
		c := newNetns(t)
		ip(t, "link add vf0 address 02:00:00:00:00:01 type veth peer name p-vf0", "link property add dev vf0 altname own")
		before := named(t, c, "vf0")
		ip(t, spoil...)
		now, err := c.Reset(named(t, c, "mine"), before)
		if err != nil {
			t.Fatal(err)
		}
		now.Carrier, before.Carrier = false, false
		if d := cmp.Diff(before, now); d != "" {
			t.Error(d)
		}
	})
	t.Run("all but what cannot be", func(t *testing.T) {
		c := newNetns(t)
		ip(t, "link add vf0 address 02:00:00:00:00:01 type veth peer name p-vf0", "link property add dev vf0 altname own", "link add taken type veth peer name p-taken")
		before := named(t, c, "vf0")
		ip(t, spoil...)
		want := before
		want.Name, want.MAC = "taken", MAC{1, 0, 0, 0, 0, 1} // a name that another has, and a group address
		now, err := c.Reset(named(t, c, "mine"), want)
		if !errors.Is(err, ErrExists) || !errors.Is(err, ErrAddress) {
			t.Errorf("got %v, want ErrExists and ErrAddress", err)
		}
		now.Carrier, before.Carrier = false, false
		before.Name, before.MAC = "mine", MAC{2, 0, 0, 0, 0, 0x99}
		if d := cmp.Diff(before, now); d != "" {
			t.Error(d)
		}
	})
	t.Run("an untouched one costs one read", func(t *testing.T) {
		c := newNetns(t)
		ip(t, "link add vf0 type veth peer name p-vf0")
		dev := named(t, c, "vf0")
		if _, err := c.Reset(dev, dev); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(Count{Others: 1}, c.Count); d != "" {
			t.Error(d)
		}
	})
}
