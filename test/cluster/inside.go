package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
	"github.com/viaduct-sriov/viaduct/test/cluster/node"
	"github.com/viaduct-sriov/viaduct/test/cluster/ociimage"
	"github.com/viaduct-sriov/viaduct/test/cluster/thirdparty"
	"github.com/viaduct-sriov/viaduct/test/lab/vm"
)

const nodeCommand = "node"

// Where the guest shows the lab's folders.
const (
	guestPersist   = "/persist"
	guestArtefacts = "/artefacts"
)

// inside runs control plane and node in the namespaces that outside made.
func inside(ctx context.Context, args []string) (exit int, err error) {
	o, err := parseOptions(args)
	if err != nil {
		return 2, err
	}
	if err := ownProc(); err != nil {
		return 0, err
	}
	if err := setLoopback(); err != nil {
		return 0, err
	}
	cache, err := vm.CacheDir()
	if err != nil {
		return 0, err
	}
	temp, err := os.MkdirTemp("", "viaduct-cluster-")
	if err != nil {
		return 0, fmt.Errorf("make a folder for the cluster's state: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	// kubectl keeps what an API server knows by the server's address, which all clusters here share.
	if err := os.Setenv("KUBECACHEDIR", filepath.Join(temp, "kubectl")); err != nil {
		return 0, err
	}
	return o.run(ctx, cache, temp)
}

func (o options) run(ctx context.Context, cache, temp string) (exit int, err error) {
	state, logs := temp, filepath.Join(temp, "logs")
	if o.persist != "" {
		state = filepath.Join(o.persist, "control-plane")
	}
	if o.artefacts != "" {
		logs = filepath.Join(o.artefacts, "control-plane")
	}
	started := time.Now()
	control, err := controlplane.Start(ctx, cache, state, logs)
	if err != nil {
		return 0, err
	}
	defer control.Stop()
	logf("API server ready after %s", time.Since(started).Round(100*time.Millisecond))
	if err := o.apply(ctx, cache, control); err != nil {
		return 0, err
	}
	if o.node {
		exit, err = o.runNode(ctx, cache, temp, control)
	} else {
		exit, err = o.runBeside(ctx, cache, control)
	}
	if (err != nil || exit != 0) && ctx.Err() == nil {
		for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-apiserver"} {
			fmt.Fprintf(os.Stderr, "=== %s\n%s\n", name, control.Tail(name, 15))
		}
	}
	return exit, err
}

// writeNode writes what the node needs to know to a file, whose path it returns, and the images every node has beside it.
func (o options) writeNode(ctx context.Context, cache, temp string, secrets controlplane.Secrets) (path string, err error) {
	base := filepath.Join(temp, "base.tar")
	if err := ociimage.WriteBase(ctx, base); err != nil {
		return "", err
	}
	config := node.Config{
		Secrets:    secrets,
		Kubernetes: thirdparty.Bin(cache, "kubernetes"),
		Containerd: thirdparty.Bin(cache, "containerd"),
		CNIPlugins: thirdparty.Bin(cache, "cni-plugins"),
		Images:     append([]string{base}, o.images...),
		VFs:        o.vfs,
	}
	if o.persist != "" {
		config.Persist = guestPersist
	}
	if o.artefacts != "" {
		config.Artefacts = guestArtefacts
	}
	data, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("encode the node's configuration: %w", err)
	}
	path = filepath.Join(temp, "node.json")
	return path, os.WriteFile(path, data, 0o600)
}

// runNode boots the VM with the node in it.
func (o options) runNode(ctx context.Context, cache, temp string, control *controlplane.ControlPlane) (exit int, err error) {
	config, err := o.writeNode(ctx, cache, temp, control.Secrets)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := whileItLives(ctx, control)
	defer cancel()
	kubelet := controlplane.NodeIP + ":10250"
	return vm.Run(ctx, vm.Config{
		PFs: o.pfs, NUMANodes: o.numa, MemoryMiB: o.memory, CPUs: o.cpus, Separate: !o.joined,
		Uplink: true, HostForwards: []string{"tcp:" + kubelet + "-" + kubelet},
		Persist: o.persist, Artefacts: o.artefacts,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, TTY: isTerminal(os.Stdin) && isTerminal(os.Stdout),
		Cache: cache, Log: logf,
	}, append([]string{self, nodeCommand, config}, o.command...)) // its arguments tell the lab what to bring back, as coverage
}

// whileItLives is ctx, which also ends when a component of the control plane dies.
func whileItLives(ctx context.Context, control *controlplane.ControlPlane) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case death := <-control.Died():
			cancel(death)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// apply gives the API server the manifests, on this machine: kubectl asks it for all that it knows first, which takes the
// node's emulated CPU 15 seconds.
func (o options) apply(ctx context.Context, cache string, control *controlplane.ControlPlane) error {
	for _, path := range o.manifests {
		how := "-f"
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			how = "-k"
		}
		// What a manifest defines, the API server serves some time later: the next manifest may need it.
		var failed error
		err := control.Await(ctx, "kubectl apply "+how+" "+path, time.Minute, func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, filepath.Join(thirdparty.Bin(cache, "kubernetes"), "kubectl"), "apply", how, path)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+control.Secrets.HostKubeconfig("admin"))
			out, err := cmd.CombinedOutput()
			if err != nil && ctx.Err() == nil { // else the time was over in the middle of a try, and the one before says why
				failed = fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
			}
			if err != nil {
				return cmp.Or(failed, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		logf("applied %s", path)
	}
	return nil
}

// runBeside runs the command on this machine, with an administrator's kubeconfig and kubectl.
func (o options) runBeside(ctx context.Context, cache string, control *controlplane.ControlPlane) (exit int, err error) {
	ctx, cancel := whileItLives(ctx, control)
	defer cancel()
	// The API server refuses pods until the controller manager, which has just been started, has made this.
	err = control.Await(ctx, "the service account of namespace default", time.Minute, func(ctx context.Context) error {
		return control.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
	})
	if err != nil {
		return 0, err
	}
	if err := os.Setenv("PATH", thirdparty.Bin(cache, "kubernetes")+":"+os.Getenv("PATH")); err != nil { // exec looks the command up there, too
		return 0, err
	}
	cmd := exec.CommandContext(ctx, o.command[0], o.command[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+control.Secrets.HostKubeconfig("admin"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endLimit / 3
	exit, err = status(cmd.Run())
	if cause := context.Cause(ctx); cause != nil {
		err = errors.Join(err, cause)
	}
	return exit, err
}

// isTerminal tells whether a person sits at f: what they run in the guest then gets a terminal, too.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ownProc mounts the /proc of the new process namespace. Programs that look themselves up there would find somebody else.
func ownProc() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// setLoopback sets lo up, and makes the node's address local: there QEMU takes the connections that the API server makes to
// the kubelet, and forwards them into the guest. They must come from 127.0.0.1, which QEMU translates to 10.0.2.2; from the
// address itself, as the kernel chooses for a local one, the guest would see packets from its own and drop them.
func setLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	err = netlink.RouteAdd(&netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Dst:       &net.IPNet{IP: net.ParseIP(controlplane.NodeIP).To4(), Mask: net.CIDRMask(32, 32)},
		Src:       net.IPv4(127, 0, 0, 1),
	})
	if err != nil {
		return fmt.Errorf("make the node's address local: %w", err)
	}
	return nil
}
