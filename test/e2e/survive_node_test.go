//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nameVFs gives the VFs names that the kernel gives to none, as udev does on a node: a VF that is made anew gets the first
// ethN that is free, and that may be the name of one in a pod.
func nameVFs(t *testing.T) {
	t.Helper()
	for _, v := range mustLook(t).VFs {
		if v.Link == nil {
			t.Fatalf("VF %d of %s is in use", v.Index, v.PF)
		}
		link, err := netlink.LinkByName(v.Link.Name)
		if err == nil {
			err = netlink.LinkSetName(link, fmt.Sprintf("%sv%d", v.PF, v.Index))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := takeVFsForBaseline(); err != nil {
		t.Fatal(err)
	}
}

// asUdev gives VFs that were made anew the name and the MAC that they had, as udev and who configures the node do.
func (s *survival) asUdev(context.Context) error {
	now, err := look()
	if err != nil {
		return err
	}
	for address, want := range s.settled.VFs {
		v := now.VFs[address].Link
		switch {
		case want.Link == nil || v != nil && v.Name == want.Link.Name && v.MAC == want.Link.MAC:
		case v == nil:
			err = errors.Join(err, fmt.Errorf("VF %s is in a pod, or not there", address))
		default:
			mac, parseErr := net.ParseMAC(want.Link.MAC)
			link, findErr := netlink.LinkByName(v.Name)
			if parseErr != nil || findErr != nil {
				return errors.Join(parseErr, findErr)
			}
			err = errors.Join(err, netlink.LinkSetName(link, want.Link.Name), netlink.LinkSetHardwareAddr(link, mac))
		}
	}
	return err
}

// setPFDown takes the carrier from the pods that stay.
func setPFDown(t *testing.T, s *survival) {
	h := s.holders[0]
	pf, err := netlink.LinkByName(s.settled.VFs[h.device].PF)
	if err == nil {
		err = netlink.LinkSetDown(pf)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.LinkSetUp(pf); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, h.name+" to lose its carrier", func(ctx context.Context) error {
		carrier, err := h.exec(ctx, "cat", "/sys/class/net/net1/carrier")
		if err == nil && carrier != "0" {
			err = fmt.Errorf("it has %s", carrier)
		}
		return err
	})
}

// sacrifice makes a pod that loses its VFs, as the kernel has it when their driver goes.
func (s *survival) sacrifice(t *testing.T, vfs int) (pod, []string) {
	t.Helper()
	p := pod{name: fmt.Sprintf("loses-%d", len(s.rows)), networks: "vlan100", vfs: vfs}
	p.create(t)
	p.running(t)
	return p, p.devices(t)
}

// unbindVF takes the driver from a VF that a pod has, and its interface with it, and gives it back. What the network set at the
// PF is still there, and goes with the pod.
func unbindVF(t *testing.T, s *survival) {
	p, devices := s.sacrifice(t, 1)
	address := devices[0]
	if err := os.WriteFile(filepath.Join("/sys/bus/pci/devices", address, "driver/unbind"), []byte(address), 0o200); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile("/sys/bus/pci/drivers_probe", []byte(address), 0o200); err != nil {
			t.Error(err)
		}
		p.remove(context.WithoutCancel(t.Context()), t)
	}()
	eventually(t, "the node to offer one VF less", s.offers(len(s.settled.VFs)-1))
}

// changeNumVFs has other VFs at the PF that the holders have none of, while a pod has three of the old ones.
func changeNumVFs(t *testing.T, s *survival) {
	p, devices := s.sacrifice(t, 3)
	pf := s.settled.VFs[devices[0]].PF
	for _, d := range devices {
		if s.settled.VFs[d].PF == s.settled.VFs[s.holders[0].device].PF {
			t.Fatalf("the pod has VF %s of %s, as those that stay", d, pf)
		}
	}
	path := filepath.Join("/sys/class/net", pf, "device/sriov_numvfs")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.stream.hold(t) // or a pod gets a new VF before udev has named it, and it goes back to how it was then
		if err := setNumVFs(path, before); err != nil {
			t.Error(err)
		}
		eventually(t, "the new VFs to have their names and MACs", s.asUdev)
		s.stream.resume()
		p.remove(context.WithoutCancel(t.Context()), t)
	}()
	if err := setNumVFs(path, 2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to offer two VFs of that PF", s.offers(len(s.settled.VFs)-before+2))
}

// setNumVFs makes n VFs: the kernel changes the number only from and to none.
func setNumVFs(path string, n int) error {
	return errors.Join(os.WriteFile(path, []byte("0"), 0o200), os.WriteFile(path, []byte(strconv.Itoa(n)), 0o200))
}

// fillDisks leaves no room for pods' journals and leases. Their folders are file systems in memory, each of its own.
func fillDisks(t *testing.T, s *survival) {
	for _, dir := range []string{"/var/lib/viaduct", "/var/lib/cni"} {
		empty, err := fill(dir)
		defer func() {
			if err := empty(); err != nil {
				t.Errorf("make room in %s: %v", dir, err)
			}
		}()
		if err != nil {
			t.Fatalf("fill %s: %v", dir, err)
		}
	}
	s.stream.told(t, unix.ENOSPC.Error())
}

// fill leaves no page of dir's file system. Empty gives it the size that it had: a half of the memory.
func fill(dir string) (empty func() error, err error) {
	filler := filepath.Join(dir, "fills-the-disk")
	resize := func(size string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "size="+size) }
	empty = func() error { return errors.Join(os.Remove(filler), resize("50%")) }
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return empty, err
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return empty, errors.New("it is on a disk that others need (was the cluster started with --persist?)")
	}
	const spare = 64 << 10
	if err := resize(strconv.FormatUint((fs.Blocks-fs.Bfree)*uint64(fs.Bsize)+spare, 10)); err != nil {
		return empty, err
	}
	f, err := os.Create(filler)
	for err == nil {
		_, err = f.Write(make([]byte, fs.Bsize))
	}
	if errors.Is(err, unix.ENOSPC) {
		err = f.Close()
	}
	return empty, err
}

// jump sets the clock an hour ahead while pods come and go, and back.
func jump(t *testing.T, s *survival) {
	defer func() {
		if err := setClock(-time.Hour); err != nil {
			t.Error(err)
		}
	}()
	if err := setClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	s.stream.another(t, "with the clock ahead")
}

func setClock(by time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return err
	}
	now = unix.NsecToTimespec(now.Nano() + int64(by))
	return unix.ClockSettime(unix.CLOCK_REALTIME, &now)
}
