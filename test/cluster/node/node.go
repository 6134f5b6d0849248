// Package node makes a Kubernetes node of the machine it runs on, a VM that is thrown away afterwards, and runs a command
// there. It takes the machine over: host name, links, mounts, daemons.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
	"github.com/viaduct-sriov/viaduct/test/cluster/process"
)

// A Config says what the node is made of. All paths are the guest's.
type Config struct {
	Secrets    controlplane.Secrets // certificates and kubeconfigs
	Kubernetes string               // folder of kubelet, kube-proxy, kubectl
	Containerd string               // folder of containerd, its shim and ctr
	CNIPlugins string               // folder of the CNI plugins, copied to /opt/cni/bin
	Images     []string             // OCI archives for the runtime
	VFs        int                  // sriov_numvfs of each PF
	Persist    string               // folder that outlives the boot, for the node's state; memory if empty
	Artefacts  string               // folder for the logs; none if empty
	Command    []string             `json:"-"` // from this program's arguments
}

// Load reads a Config that was written as JSON.
func Load(path string) (Config, error) {
	var c Config
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return c, fmt.Errorf("read the node's configuration: %w", err)
	}
	return c, nil
}

const logs = "/var/log/node"

// Run brings the node up, waits until pods can run, runs the command and returns its exit status. An error means that the
// node did not come up; then, and if the command fails, what the node knows about it goes to stderr.
// Call it from a goroutine locked to the main thread.
func Run(ctx context.Context, c Config) (exit int, err error) {
	if err := c.takeOver(); err != nil {
		return 0, err
	}
	group, err := process.New(logs)
	if err != nil {
		return 0, err
	}
	defer group.Stop()
	exit, err = c.carry(ctx, group, c.start, os.Stderr)
	return exit, errors.Join(err, c.keepLogs())
}

// carry starts the node and runs the command on it. Whatever fails, w gets the report, unless somebody ended it.
func (c Config) carry(ctx context.Context, group *process.Group, start func(context.Context, *process.Group) error, w io.Writer) (exit int, err error) {
	if err = start(ctx, group); err == nil {
		exit, err = c.command(ctx)
	}
	if (err != nil || exit != 0) && ctx.Err() == nil {
		c.report(ctx, group, w)
	}
	return exit, err
}

// start brings the daemons up, and returns when pods can run.
func (c Config) start(ctx context.Context, group *process.Group) error {
	// The daemons collect their garbage a fourth as often: there is memory, and the emulated CPU is slow.
	if err := os.Setenv("GOGC", "400"); err != nil {
		return err
	}
	var took []any
	for _, step := range []struct {
		name string
		do   func(context.Context, *process.Group) error
	}{
		{"containerd", c.startContainerd},
		{"images", c.importImages}, // pods may wait for the kubelet already, and one without its image is tried again late
		{"kubelet", c.startKubelet},
		{"proxy", c.startProxy},
		{"ready", c.awaitReady},
	} {
		began := time.Now()
		if err := step.do(ctx, group); err != nil {
			return err
		}
		took = append(took, step.name, seconds(time.Since(began)))
	}
	slog.Info("the node is ready", took...)
	return nil
}

func seconds(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }

// command runs the command with an administrator's kubeconfig and the cluster's programs on PATH.
func (c Config) command(ctx context.Context) (exit int, err error) {
	path := c.Kubernetes + ":" + c.Containerd + ":" + os.Getenv("PATH")
	if err := os.Setenv("PATH", path); err != nil { // exec looks the command up there, too
		return 0, err
	}
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Secrets.Kubeconfig("admin"), "NODE_NAME="+controlplane.NodeName)
	cmd.Cancel = func() error { return nil } // what ends us reached our whole process group
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var status *exec.ExitError
	switch {
	case errors.As(err, &status) && status.Exited():
		return status.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("run %s: %w", c.Command[0], err)
	}
	return 0, nil
}

// keepLogs copies the logs of daemons and pods to the artefacts.
func (c Config) keepLogs() error {
	if c.Artefacts == "" {
		return nil
	}
	for from, to := range map[string]string{logs: "node", podLogs: "pods"} {
		target := filepath.Join(c.Artefacts, to)
		if err := os.RemoveAll(target); err != nil {
			return fmt.Errorf("keep the logs: %w", err)
		}
		if err := os.CopyFS(target, os.DirFS(from)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("keep the logs: %w", err)
		}
	}
	return nil
}
