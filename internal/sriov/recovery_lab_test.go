//go:build lab

package sriov_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func add(s *site) error { return s.call("ADD") }
func del(s *site) error { return s.call("DEL") }

func scenarios() []scenario {
	return []scenario{
		{name: "ADD", verb: "ADD"},
		{name: "DEL", verb: "DEL", before: func(s *site) error { return errors.Join(add(s), dirty(s)) }},
		{name: "ADD with vfio-pci", rare: true, verb: "ADD", dpdk: true},
		{name: "DEL with vfio-pci", rare: true, verb: "DEL", dpdk: true, before: add},
		{name: "ADD that fails", rare: true, sampled: true, verb: "ADD", more: conf{"ipam": conf{"type": "test-ipam", "fail": "ADD"}}},
		{name: "ADD, its IPAM plugin killed", rare: true, sampled: true, verb: "ADD", only: " by a child", child: true},
		{name: "DEL, its IPAM plugin killed", rare: true, sampled: true, verb: "DEL", before: add, only: " by a child", child: true},
		{name: "DEL when the netns has gone", rare: true, sampled: true, verb: "DEL", before: func(s *site) error {
			err := add(s)
			s.p.gone()
			return err
		}},
		{name: "DEL when a socket holds the netns", rare: true, sampled: true, verb: "DEL", only: "bind", before: func(s *site) error {
			return errors.Join(add(s), s.hold(s.p))
		}},
		{name: "ADD after an owner who died", rare: true, sampled: true, verb: "ADD", before: func(s *site) error {
			s.old = s.newPod()
			err := s.callBy("ADD", s.old, s.old.conf(s.d, conf{"vlan": 7, "trust": "on"}))
			s.old.gone()
			return err
		}, finish: func(s *site) error { return s.callBy("DEL", s.old, s.old.conf(s.d, conf{"vlan": 7, "trust": "on"})) }},
		{name: "DEL of a corrupt record", rare: true, sampled: true, verb: "DEL", before: func(s *site) error {
			return errors.Join(add(s), os.Truncate(recordPath(s.d), 40))
		}, finish: func(s *site) error {
			// Where the record did not say that its boot is over, or GC could not tell whose it is.
			if err := del(s); err != nil {
				return err
			}
			// What only the record knew.
			dev, err := s.host.Find(s.d.Address.String())
			if err != nil {
				return err
			}
			if want := s.was.Netdev; dev.MAC != want.MAC || dev.Name != want.Name {
				s.ip("link", "set", dev.Name, "address", want.MAC.String(), "name", want.Name)
			}
			if len(dev.AltNames) == 0 && len(s.was.Netdev.AltNames) > 0 {
				s.ip("link", "property", "add", "dev", s.was.Netdev.Name, "altname", s.was.Netdev.AltNames[0])
			}
			return nil
		}},
		{name: "GC", rare: true, sampled: true, verb: "GC", more: conf{"cni.dev/valid-attachments": []any{}}, before: add},
	}
}

// reboots is how many of the recoveries are some: the last.
const reboots = 2

// A recovery is what can come after a crash.
type recovery struct {
	name string
	run  func(s *site) error
}

func recoveries() []recovery {
	return []recovery{
		{"DEL", del},
		{"DEL twice", func(s *site) error { return errors.Join(del(s), del(s)) }},
		{"netns death and DEL", func(s *site) error {
			s.p.gone()
			return del(s)
		}},
		{"GC of everything", func(s *site) error {
			c := s.conf()
			c["cni.dev/valid-attachments"] = []any{}
			return s.callBy("GC", s.p, c)
		}},
		{"netns death, another pod's ADD and DEL", func(s *site) error {
			s.p.gone()
			next := s.newPod()
			defer next.gone()
			c := next.conf(s.d, conf{"vlan": 6, "ipam": full()["ipam"]})
			return errors.Join(s.callBy("ADD", next, c), s.callBy("DEL", next, c))
		}},
		{"reboot and DEL", func(s *site) error {
			if err := os.RemoveAll(records); err != nil {
				return err
			}
			return errors.Join(s.reboot(), del(s))
		}},
		{"reboot that /run survives, and DEL", func(s *site) error { return errors.Join(s.reboot(), del(s)) }},
	}
}

// reboot does to the VF, the pod and the boot id what a reboot does. Taking all VFs away and making them anew, as TestReboot
// does, costs seconds each time, in which igb and the kernel only sleep; nothing of the VF may be touched either way.
func (s *site) reboot() error {
	s.p.gone()
	if err := newBootID(); err != nil {
		return err
	}
	entry := s.was.Settings
	entry.MAC = new(vf.MAC)
	if s.dpdk {
		s.host.WriteEach(s.pf(s.d), s.d.VFIndex, entry)
		s.was = s.state(s.d)
		return nil
	}
	const driver = "/sys/bus/pci/drivers/igbvf/"
	address := []byte(s.d.Address.String())
	_ = os.WriteFile(driver+"unbind", address, 0) // it may have been killed with the VF unbound
	s.host.WriteEach(s.pf(s.d), s.d.VFIndex, entry)
	if err := os.WriteFile(driver+"bind", address, 0); err != nil {
		return err
	}
	if _, err := eventually(func() (vf.Netdev, error) { return s.host.Find(string(address)) }); err != nil {
		return err
	}
	s.was = s.state(s.d)
	return nil
}

var boots int

func newBootID() error {
	const real, ours = "/proc/sys/kernel/random/boot_id", "/run/test-boot-id"
	boots++
	if err := os.WriteFile(ours, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", boots), 0o600); err != nil || boots > 1 {
		return err
	}
	return unix.Mount(ours, real, "", unix.MS_BIND, "")
}

// anew takes the PF's VFs away and makes new ones, and says how the new one is.
func (n *node) anew(d *pci.Device, dpdk bool) state {
	n.Helper()
	pfs, err := findPFs()
	if err == nil {
		err = errors.Join(setNumVFs(d.PF, 0), setNumVFs(d.PF, numVFs))
	}
	if err == nil {
		err = awaitVFs(numVFs * len(pfs))
	}
	if err != nil {
		n.Fatal(err)
	}
	if dpdk {
		bind(n.T, d, "vfio-pci")
	}
	return n.state(d)
}

// hold deletes a pod's network namespace, which a socket keeps until the try is over.
func (s *site) hold(p *pod) error {
	ns, err := netns.Open(p.path())
	if err != nil {
		return err
	}
	defer ns.Close()
	fd := -1
	err = ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	s.undo = append(s.undo, func() { _ = unix.Close(fd) })
	p.gone()
	return err
}

// gone ends a pod that may have ended already.
func (p *pod) gone() { _ = ipCommand("netns", "del", p.ns).Run() }

func ipCommand(args ...string) *exec.Cmd { return exec.Command("ip", args...) }

// giveToVFIO binds a VF to vfio-pci until the test ends.
func (n *node) giveToVFIO(d *pci.Device) {
	n.Helper()
	loadVFIO(n.T)
	bind(n.T, d, "vfio-pci")
	n.Cleanup(func() { n.giveToKernel(d) })
}

// giveToKernel binds a VF to igbvf again.
func (n *node) giveToKernel(d *pci.Device) {
	n.Helper()
	if n.Failed() {
		n.anew(d, false) // whatever is left of it
		return
	}
	bind(n.T, d, "igbvf")
	_ = os.Remove(recordPath(d)) // what the VF was with the other driver is not what it is when it gets that again
	if err := os.WriteFile("/sys/bus/pci/devices/"+d.Address.String()+"/driver_override", []byte("\n"), 0); err != nil {
		n.Fatal(err)
	}
	if _, err := eventually(func() (vf.Netdev, error) { return n.host.Find(d.Address.String()) }); err != nil {
		n.Fatal(err)
	}
}
