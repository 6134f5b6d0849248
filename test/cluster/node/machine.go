package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
)

// state is what a node keeps on its disk. The guest's root shows the host's, so each starts as an empty folder of its own.
var state = []string{
	"/etc/cni", "/etc/kubernetes", "/opt/cni", "/var/lib/cni",
	"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/viaduct", "/var/log",
}

// folders are those that a daemon wants to find in it.
var folders = []string{"/etc/cni/net.d", "/etc/kubernetes/manifests", "/opt/cni/bin"}

// modules are those that no event loads by itself on a machine without udev.
var modules = []string{"virtio_net", "bridge", "veth", "overlay", "br_netfilter", "igbvf", "igb", "vfio-pci"}

// takeOver gives the machine the node's name, state, links and VFs.
func (c Config) takeOver() error {
	if err := unix.Sethostname([]byte(controlplane.NodeName)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	// When an ordinary user started the VM, the host's files are not root's here, and mount(8), which is setuid to its owner,
	// would run as that. Everything here is root's already.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("ignore set-user-ID bits: %w", err)
	}
	if err := command("modprobe", append([]string{"--all"}, modules...)...); err != nil {
		return err
	}
	for _, dir := range state {
		if err := c.mountState(dir); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder of the node: %w", err)
		}
	}
	return errors.Join(setSysctls(), reserveHugePages(), setUplink(), c.makeVFs())
}

// hugePages, of 2 MiB, are for pods with DPDK. The kernel spreads them over the NUMA nodes, and two programs take ten each of
// the node that has the CPU.
const hugePages = 48

// reserveHugePages takes them while memory is whole. The kubelet counts them when it starts.
func reserveHugePages() error {
	const path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	err := os.WriteFile(path, []byte(strconv.Itoa(hugePages)), 0o644)
	if err != nil {
		return fmt.Errorf("reserve huge pages: %w", err)
	}
	return nil
}

// mountState puts a folder of the disk that persists, or one in memory, where the node keeps state.
func (c Config) mountState(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if c.Persist == "" {
		return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
	}
	source := filepath.Join(c.Persist, "node", strings.ReplaceAll(dir[1:], "/", "-"))
	if err := os.MkdirAll(source, 0o755); err != nil {
		return err
	}
	return unix.Mount(source, dir, "", unix.MS_BIND, "")
}

func setSysctls() error {
	for path, value := range map[string]string{
		"net/ipv4/ip_forward":                 "1",
		"net/ipv6/conf/all/forwarding":        "1",
		"net/bridge/bridge-nf-call-iptables":  "1", // else a service's address does not work between pods of one bridge
		"net/bridge/bridge-nf-call-ip6tables": "1",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s: %w", path, err)
		}
	}
	return nil
}

// command runs a program that is silent when all is well.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil { //nolint:noctx // at boot, mount and the like
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
