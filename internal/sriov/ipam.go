package sriov

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

// ipamAdd asks the IPAM plugin for addresses.
func (p *Plugin) ipamAdd(ctx context.Context, c *call) (*types100.Result, error) {
	out, err := p.ipam(ctx, c, "ADD")
	if err != nil {
		return nil, err
	}
	result, err := cni.ReadCurrent(out, c.cfg.CNIVersion)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("IPAM plugin %q: its answer cannot be read: %v", c.cfg.IPAM, err), "")
	}
	return result, nil
}

// ipam runs the network's IPAM plugin for one verb; without one it does nothing. The plugin is a child that dies with us,
// with all that it started as far as the kernel lets us, and at the latest after IPAMWait.
func (p *Plugin) ipam(ctx context.Context, c *call, verb string) ([]byte, error) {
	if c.cfg.IPAM == "" {
		return nil, nil
	}
	path, err := c.ipamPath()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.IPAMWait)
	defer cancel()
	start := time.Now()
	out, err := run(ctx, path, c.StdinData, c.environment(verb))
	if err != nil {
		return nil, fmt.Errorf("IPAM plugin %s %s: %w", path, verb, err)
	}
	c.log.Debug("IPAM plugin answered", "plugin", path, "verb", verb, "took", time.Since(start))
	return out, nil
}

func (c *call) ipamPath() (string, error) {
	path, err := findPlugin(c.cfg.IPAM, c.Path)
	if err != nil {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %q: IPAM plugin: %v", c.cfg.Network, err), "")
	}
	return path, nil
}

func (c *call) environment(verb string) []string {
	env := os.Environ()
	return append(env, "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.ContainerID, "CNI_NETNS="+c.Netns, "CNI_IFNAME="+c.IfName,
		"CNI_ARGS="+c.Args, "CNI_PATH="+c.Path)
}

func findPlugin(name, path string) (string, error) {
	if name != filepath.Base(name) || name == "." || name == ".." {
		return "", fmt.Errorf("%q is no plugin name", name)
	}
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() {
			return full, nil
		}
	}
	return "", fmt.Errorf("%q is not in CNI_PATH %q", name, path)
}

// run executes a plugin and gives its answer, or the error that it answered with, code and all.
func run(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	// Pdeathsig counts the thread that started the child, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(stdin), &stdout, &stderr, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild that got away still holds our pipes.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well; a child of it still holds its output
	}
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("%s: no answer, killed: %v", path, context.Cause(ctx)), lastLine(stderr.Bytes()))
	}
	var answer types.Error
	if json.Unmarshal(stdout.Bytes(), &answer) == nil && (answer.Msg != "" || answer.Code != 0) {
		return nil, &answer
	}
	return nil, errors.Join(err, errors.New(lastLine(stderr.Bytes())))
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// previous is the result of the attachment's ADD as the runtime hands it to CHECK; nil if it does not.
func (c *call) previous() (*types100.Result, error) {
	var in struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(c.StdinData, &in); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	if len(in.PrevResult) == 0 || string(in.PrevResult) == "null" {
		return nil, nil
	}
	result, err := cni.ReadCurrent(in.PrevResult, c.cfg.CNIVersion)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	return result, nil
}
