package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
)

// statusTimeout bounds a plugin at STATUS. An error there makes the node NotReady, so it is for plugins that hang, not
// for slow ones.
const statusTimeout = 5 * time.Second

func runner(c *config, args *cni.CmdArgs) *delegate.Runner {
	return &delegate.Runner{
		Records:  delegate.Records(orDefault(c.StateDir, delegate.DefaultDir)),
		Running:  journal.Store{Dir: orDefault(c.RunDir, delegate.DefaultRunDir), Version: 1},
		Path:     strings.Trim(args.Path+":"+c.BinDir, ":"),
		Devices:  devinfo.Dir{Root: c.DeviceInfoDir},
		Multus:   takeover.Multus(orDefault(c.MultusDir, takeover.MultusDir)),
		Timeout:  c.PluginTimeout.duration(),
		LockWait: c.LockWait.duration(),
		Stderr:   os.Stderr,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)), // standard output carries the result alone
	}
}

func sandbox(args *cni.CmdArgs, pod network.Pod) delegate.Sandbox {
	return delegate.Sandbox{
		ContainerID: args.ContainerID, Netns: args.Netns, IfName: args.IfName, Args: args.Args, Pod: pod,
	}
}

func add(args *cni.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if len(c.PrevResult) > 0 && string(c.PrevResult) != "null" {
		return types.NewError(types.ErrInvalidNetworkConfig, "meta-cni must be the first plugin of its network: it got a prevResult",
			"chain other plugins inside the default network's configuration, in delegates[0]")
	}
	pod, err := parsePod(args.Args)
	if err != nil {
		return err
	}
	ctx, r, client := context.Background(), runner(c, args), agentapi.Client{Socket: c.AgentSocket}
	rec, err := r.Add(ctx, sandbox(args, pod), func(ctx context.Context) ([]network.Attachment, error) {
		return plan(ctx, c, client, args.ContainerID, pod)
	})
	if err != nil {
		return delegate.CNIError(pod, err)
	}
	result, err := rec.Result()
	if err != nil {
		return delegate.CNIError(pod, err)
	}
	if rec.HasExtra() {
		report(ctx, r.Log, client, rec)
	}
	r.Sweep(ctx)
	return types.PrintResult(result, c.CNIVersion)
}

// plan says what the sandbox gets: from the configuration alone where that is certain, else from the agent.
func plan(
	ctx context.Context, c *config, client agentapi.Client, containerID string, pod network.Pod,
) ([]network.Attachment, error) {
	def, err := c.defaultNetwork()
	if err != nil {
		return nil, err
	}
	annotations, err := c.annotations()
	if err != nil {
		return nil, err
	}
	if !c.needsAgent(pod, annotations) {
		return []network.Attachment{def}, nil
	}
	got, err := client.Plan(ctx, agentapi.Plan{ContainerID: containerID, Pod: pod, Annotations: annotations})
	if err != nil {
		return nil, err
	}
	if got.Default != nil {
		// What the runtime passes is for the pod's default network, whichever that is.
		capabilities := map[string]json.RawMessage{}
		maps.Copy(capabilities, def.Capabilities)
		maps.Copy(capabilities, got.Default.Capabilities)
		def = *got.Default
		def.Capabilities, def.IsDefault = capabilities, true
	}
	return append([]network.Attachment{def}, got.Attachments...), nil
}

// report hands network-status to the agent before the pod starts. The agent finds the record if it cannot have it now.
func report(ctx context.Context, log *slog.Logger, client agentapi.Client, rec *delegate.Record) {
	status, err := rec.NetworkStatus()
	if err == nil {
		err = client.Report(ctx, agentapi.Report{Pod: rec.Pod, Status: status})
	}
	if err != nil {
		log.Warn("network-status will be late", "pod", rec.Pod.Namespace+"/"+rec.Pod.Name, "error", err)
	}
}

func del(args *cni.CmdArgs) error {
	pod, _ := parsePod(args.Args) // only for the message: the record knows the pod
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return delegate.DelError(pod, err)
	}
	def, missing := c.defaultNetwork() // it matters only for a sandbox without a record
	sb := sandbox(args, pod)
	sb.Result = c.PrevResult
	if err := runner(c, args).Del(context.Background(), sb, def); err != nil {
		return delegate.DelError(pod, errors.Join(missing, err))
	}
	return nil
}

func check(args *cni.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	pod, err := parsePod(args.Args)
	if err != nil {
		return err
	}
	if err := runner(c, args).Check(context.Background(), sandbox(args, pod)); err != nil {
		return delegate.CNIError(pod, err)
	}
	return nil
}

// status is the default network's. The agent is no part of it: the runtime makes the node NotReady on any error.
func status(args *cni.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	def, err := c.defaultNetwork()
	if err != nil {
		return err
	}
	r := runner(c, args)
	r.Timeout = statusTimeout
	if err := r.Status(context.Background(), def.Config); err != nil {
		return delegate.CNIError(network.Pod{}, err)
	}
	return nil
}

func gc(args *cni.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	r := runner(c, args)
	if c.ValidAttachments == nil {
		// A list that is missing is no list of none: only what is surely dead goes.
		_, err = r.SweepNow(context.Background(), time.Minute, "")
	} else {
		var def network.Attachment
		if def, err = c.defaultNetwork(); err != nil {
			return err
		}
		err = r.GC(context.Background(), def, c.ValidAttachments)
	}
	if err != nil {
		return delegate.CNIError(network.Pod{}, err)
	}
	return nil
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
