package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/thirdparty"
	"github.com/viaduct-sriov/viaduct/test/lab/vm"
)

const insideCommand = "inside"

// endLimit is how long the cluster may take to end after a signal. The guest's command has 10 s of it.
const endLimit = 30 * time.Second

// outside prepares what needs this machine's network, then runs the same command again inside: as process 1 of new network,
// process and mount namespaces. The control plane has its ports for itself there, and when that process ends, however it
// does, the kernel ends the rest.
func outside(ctx context.Context, args []string) (exit int, err error) {
	o, err := parseOptions(args)
	if err != nil {
		return 2, err
	}
	cache, err := vm.CacheDir()
	if err != nil {
		return 0, err
	}
	if err := thirdparty.InstallPackages(ctx, logf); err != nil {
		return 0, err
	}
	if err := thirdparty.Build(ctx, cache, logf); err != nil {
		return 0, err
	}
	if o.node {
		if err := vm.Prepare(ctx, vm.Config{Cache: cache, Log: logf}); err != nil {
			return 0, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{insideCommand}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endLimit
	cmd.SysProcAttr = namespaces()
	return status(cmd.Run())
}

// namespaces asks for new ones. An ordinary user may make them only in a user namespace, where they are root.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// status is the exit status that a command's end means, or the error why it has none.
func status(err error) (exit int, _ error) {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &ended) && ended.Exited():
		return ended.ExitCode(), nil
	}
	return 0, err
}
