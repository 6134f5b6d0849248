package vm

import (
	"fmt"
	"strings"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// cmdline: no_timer_check, because a busy machine can otherwise panic the guest at boot; panic=-1 reboots at once, which
// with -no-reboot ends QEMU; AppArmor is off, because containerd would look for profiles that are not loaded. Memory is
// cleared when it is asked for to be, and not at each allocation, as Debian's kernel does to be on the safe side. SELinux, which
// has no policy here, looks at each file and system call all the same.
const cmdline = "console=ttyS0 panic=-1 oops=panic no_timer_check mitigations=off intel_iommu=on iommu=pt random.trust_cpu=on audit=0 apparmor=0" +
	" init_on_alloc=0 nowatchdog selinux=0"

// machine is what qemuArgs needs beside Config.
type machine struct {
	kernel, initramfs string
	accel             accel
	portFD            int         // file descriptor of the guest's line to the host, in QEMU
	shares            []hostShare // writable folders
	disk              string      // image of /persist, "" for none
	verbose           bool        // the kernel tells all, to see where a boot stops
}

type hostShare struct {
	wire.Share
	host string
}

func (m machine) cmdline() string {
	line := cmdline
	if m.accel == tcg {
		// All emulated CPUs read the host's one counter, but with two the kernel takes it for unsynchronized: each look at the
		// clock, of which Go's scheduler makes hundreds in a program's life, is then a system call that reads an emulated HPET.
		line += " clearcpuid=rep_good tsc=reliable"
		// Go's runtime naps for microseconds at a time. With timers that fine, each nap sets the emulated timer, which wakes
		// QEMU's main thread: that took a fifth of the machine. Here they end at the next tick, after 4 ms at most.
		line += " highres=off"
	}
	if m.verbose {
		return line + " loglevel=7"
	}
	return line + " quiet loglevel=4"
}

// emulated is the CPU without KVM. QEMU carries out a repeated string instruction one repetition after the other: a
// kernel and a Go runtime that see them as fast (erms, fsrm, and rep_good, which the kernel decides) clear and copy pages a
// byte at a time. A program then took 1.7 times as long to start, run and exit. The rest costs at each system call and
// page fault, for nothing that is tested here.
const emulated = "max,erms=off,fsrm=off,smap=off,smep=off,umip=off,pku=off,la57=off"

// accel is how QEMU runs the guest's code.
type accel string

const (
	tcg accel = "tcg"
	kvm accel = "kvm"
)

func (a accel) args() []string {
	if a == kvm {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", emulated}
}

func qemuArgs(c Config, m machine) []string {
	args := []string{
		// The split irqchip is what intel-iommu's interrupt remapping needs.
		"-machine", "q35,kernel-irqchip=split", "-nodefaults", "-no-reboot", "-display", "none",
		"-serial", "stdio", "-monitor", "none",
		"-m", fmt.Sprintf("%dM", c.MemoryMiB), "-smp", fmt.Sprintf("%d,sockets=%[1]d", c.CPUs),
		"-kernel", m.kernel, "-initrd", m.initramfs, "-append", m.cmdline(),
		"-device", "intel-iommu,intremap=on",
	}
	args = append(args, m.accel.args()...)
	args = append(args, numaArgs(c)...)
	args = append(args, nicArgs(c)...)
	args = append(args, hostArgs(m)...)
	if c.Uplink {
		netdev := []string{"user,id=uplink"}
		for _, f := range c.HostForwards {
			netdev = append(netdev, "hostfwd="+f)
		}
		args = append(args, "-netdev", strings.Join(netdev, ","), "-device", "virtio-net-pci,netdev=uplink,bus=pcie.0,mac=52:54:00:22:22:01")
	}
	return args
}

// numaArgs gives each node its share of memory, its CPUs (the last nodes none, if there are fewer) and a PCI root bus of its
// own, of 32 bus numbers.
func numaArgs(c Config) []string {
	var args []string
	for n := range c.NUMANodes {
		var cpus string
		if owners := min(c.CPUs, c.NUMANodes); n < owners {
			cpus = fmt.Sprintf(",cpus=%d-%d", n*c.CPUs/owners, (n+1)*c.CPUs/owners-1)
		}
		size := c.MemoryMiB / c.NUMANodes
		if n == 0 {
			size += c.MemoryMiB % c.NUMANodes
		}
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-ram,id=mem%d,size=%dM", n, size),
			"-numa", fmt.Sprintf("node,nodeid=%d%s,memdev=mem%[1]d", n, cpus),
			"-device", fmt.Sprintf("pxb-pcie,id=numa%d,bus_nr=%d,numa_node=%[1]d,bus=pcie.0", n, 32*(n+1)))
	}
	return args
}

// nicArgs puts each NIC behind a root port of its own, as SR-IOV needs a PCI Express slot.
func nicArgs(c Config) []string {
	var args []string
	for i := range c.PFs {
		hub := 0
		if c.Separate {
			hub = i
		}
		args = append(args,
			"-device", fmt.Sprintf("pcie-root-port,id=port%d,chassis=%[1]d,slot=%[1]d,bus=numa%d", i+1, i%c.NUMANodes),
			"-netdev", fmt.Sprintf("hubport,hubid=%d,id=nic%d", hub, i+1),
			"-device", fmt.Sprintf("igb,netdev=nic%d,bus=port%[1]d,romfile=,mac=52:54:00:11:11:%02x", i+1, i+1))
	}
	return args
}

// hostArgs are the lines to the host: its root, the shares, the disk that persists, the port. All of them go to pcie.0,
// because QEMU would choose a bus of the pxb otherwise.
func hostArgs(m machine) []string {
	args := []string{
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host,bus=pcie.0",
		"-device", "virtio-serial-pci,bus=pcie.0,max_ports=2",
		"-chardev", portChardev(m.portFD),
		"-device", "virtserialport,chardev=lab,name=" + wire.Port,
	}
	for _, s := range m.shares {
		args = append(args,
			"-fsdev", fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap", s.Tag, escape(s.host)),
			"-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%[1]s,bus=pcie.0", s.Tag))
	}
	if m.disk != "" {
		args = append(args,
			"-drive", "if=none,id=persist,format=raw,discard=unmap,file="+escape(m.disk),
			"-device", "virtio-blk-pci,drive=persist,bus=pcie.0,serial="+wire.PersistSerial)
	}
	return args
}

// escape doubles the commas in a value, as QEMU's option syntax asks.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// portChardev is the host's end of the port; a probe, with no descriptor to give, has none.
func portChardev(fd int) string {
	if fd < 0 {
		return "null,id=lab"
	}
	return fmt.Sprintf("socket,id=lab,fd=%d", fd)
}
