package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// The initramfs has mounted /proc, /sys and /dev already.
var baseMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
	{"bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// setUp turns a machine that just booted into one that a program can expect to run on.
func setUp(job wire.Job) error {
	for _, m := range baseMounts {
		if err := do(m); err != nil {
			return err
		}
	}
	modules := filepath.Join(job.Kernel, "lib/modules")
	if err := do(mount{modules, "/lib/modules", "", unix.MS_BIND, ""}); err != nil {
		return err
	}
	// Propagation as systemd sets it: what runs in a mount namespace of its own (ip netns, containerd) expects it.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts shared: %w", err)
	}
	if err := enableControllers("/sys/fs/cgroup"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder every machine has: %w", err)
		}
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	// The kernel's own limit is 4096; containerd and kubelet ask for far more.
	nofile := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &nofile); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	if err := modprobe(job.Modules...); err != nil {
		return err
	}
	if err := makeVFs(job.VFs); err != nil {
		return err
	}
	for _, s := range job.Shares {
		// cache=mmap: nothing but what is mapped is cached, so the host sees each write at once.
		if err := do(mount{s.Tag, s.Guest, "9p", 0, "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"}); err != nil {
			return err
		}
	}
	if job.Persist {
		return mountPersist()
	}
	return nil
}

func do(m mount) error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", m.source, m.fstype, m.target, err)
	}
	return nil
}

func enableControllers(root string) error {
	raw, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the cgroup controllers: %w", err)
	}
	for c := range strings.FieldsSeq(string(raw)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable the cgroup controller %s: %w", c, err)
		}
	}
	return nil
}

// modprobe loads modules of the Debian kernel. It runs before anything else has children, see session.reap.
func modprobe(modules ...string) error {
	if len(modules) == 0 {
		return nil
	}
	cmd := exec.Command("/sbin/modprobe", append([]string{"-a"}, modules...)...) //nolint:noctx // the machine has no one to cancel it
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe -a %s: %w: %s", strings.Join(modules, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// linkUp sets IFF_UP on a link, beside the flags that it has.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("set %s up: read its flags: %w", name, err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// makeVFs sets the PFs up and makes n VFs on each; none leaves all as it is. In this order: a VF whose PF is down finds
// nobody to talk to when its driver starts, waits seconds in vain, and may stay without carrier.
func makeVFs(n int) error {
	if n == 0 {
		return nil
	}
	found, err := filepath.Glob("/sys/class/net/*/device/sriov_totalvfs")
	if err != nil || len(found) == 0 {
		return errors.Join(fmt.Errorf("make %d VFs: no interface is a PF's", n), err)
	}
	for _, path := range found {
		device := filepath.Dir(path)
		name := filepath.Base(filepath.Dir(device))
		if err := linkUp(name); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(device, "sriov_numvfs"), strconv.AppendInt(nil, int64(n), 10), 0o644); err != nil {
			return fmt.Errorf("make %d VFs on %s: %w", n, name, err)
		}
	}
	return nil
}

// mountPersist finds the disk by its serial number: the letter in its name depends on probe order.
func mountPersist() error {
	if err := modprobe("virtio_blk", "ext4"); err != nil {
		return err
	}
	disk, err := find("the disk that persists", "/sys/block/*/serial", wire.PersistSerial)
	if err != nil {
		return err
	}
	name := filepath.Base(filepath.Dir(disk))
	return do(mount{"/dev/" + name, "/persist", "ext4", 0, ""})
}

func unmountPersist() error {
	unix.Sync()
	if err := unix.Unmount("/persist", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /persist: %w", err)
	}
	return nil
}

// openPort opens the virtio-serial port. Without udev there is no /dev/virtio-ports, so sysfs tells its name.
func openPort() (*os.File, error) {
	attr, err := find("the port to the host", "/sys/class/virtio-ports/*/name", wire.Port)
	if err != nil {
		return nil, err
	}
	dev := "/dev/" + filepath.Base(filepath.Dir(attr))
	port, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the port to the host: %w", err)
	}
	return port, nil
}

var errNotThere = errors.New("did not appear within a minute")

// find waits for a device attribute with the given content and returns its path: drivers probe asynchronously.
func find(what, pattern, content string) (string, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("find %s: %w", what, err)
		}
		for _, p := range paths {
			if raw, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(raw)) == content {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("find %s: %s with content %q: %w", what, pattern, content, errNotThere)
}
