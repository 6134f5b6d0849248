package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
)

// Check asks every plugin of the sandbox whether its part is still as ADD left it, the first that complains ends it. The
// error is of code 3 if there is no such sandbox.
func (r *Runner) Check(ctx context.Context, sb Sandbox) error {
	if err := sb.check(); err != nil {
		return err
	}
	release, err := r.lock(ctx, sb.ContainerID)
	if err != nil {
		return err
	}
	defer release()
	rec, err := r.load(sb.ContainerID)
	if errors.Is(err, journal.ErrNotExist) || err == nil && rec.Phase != Added {
		return types.NewError(types.ErrUnknownContainer, "container "+sb.ContainerID+" is not attached by this plugin", "")
	}
	if err != nil {
		return err
	}
	if !rec.alive() {
		return types.NewError(types.ErrInvalidNetNS, "the sandbox's network namespace "+rec.Netns.Path+" is gone", "")
	}
	// What a plugin said of default routes holds no more once a network's default-route has replaced them.
	moved := slices.ContainsFunc(rec.Attachments, func(a Attached) bool { return a.DefaultRoute != nil })
	for i := range rec.Attachments {
		if moved {
			rec.Attachments[i].Result = withoutDefaultRoutes(rec.Attachments[i].Result)
		}
		if err := r.checkOne(ctx, rec, &rec.Attachments[i]); err != nil {
			return err
		}
	}
	return nil
}

// withoutDefaultRoutes leaves the default routes out of a result.
func withoutDefaultRoutes(result json.RawMessage) json.RawMessage {
	var all map[string]json.RawMessage
	var routes []json.RawMessage
	if json.Unmarshal(result, &all) != nil || json.Unmarshal(all["routes"], &routes) != nil {
		return result // it has none
	}
	routes = slices.DeleteFunc(routes, func(raw json.RawMessage) bool {
		var route struct {
			Dst string `json:"dst"`
		}
		dst, err := netip.Prefix{}, json.Unmarshal(raw, &route)
		if err == nil {
			dst, err = netip.ParsePrefix(route.Dst)
		}
		return err == nil && dst.Bits() == 0
	})
	data, err := json.Marshal(routes)
	if err != nil {
		return result // what was decoded can be encoded
	}
	all["routes"] = data
	if data, err = json.Marshal(all); err != nil {
		return result
	}
	return data
}

func (r *Runner) checkOne(ctx context.Context, rec *Record, a *Attached) error {
	chain, err := ParseChain(a.Config)
	if err != nil {
		return fmt.Errorf("network %s: %w", a.Name, err)
	}
	if chain.DisableCheck || !chain.atLeast("0.4.0") {
		return nil // the one is the administrator's word, the other knows no CHECK
	}
	for _, p := range chain.Plugins {
		stdin, err := chain.stdin(p, withDeviceFile(a), map[string]any{"prevResult": a.Result})
		if err != nil {
			return err
		}
		_, err = r.exec(ctx, call{
			verb: "CHECK", network: a.Name, ifName: a.IfName, plugin: p, stdin: stdin,
			env: r.env(rec, a, chain, "CHECK", rec.Netns.Path), containerID: rec.ContainerID,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Status asks the default network's plugins whether they are ready for an ADD. The first that is not ends it, with its
// own code. Versions before 1.1.0 cannot be asked.
func (r *Runner) Status(ctx context.Context, config []byte) error {
	chain, err := ParseChain(config)
	if err != nil {
		return err
	}
	if !chain.atLeast("1.1.0") {
		return nil
	}
	return r.each(ctx, chain, "STATUS", nil)
}

// each runs a verb that is about no container for the chain's plugins, and stops at the first failure.
func (r *Runner) each(ctx context.Context, chain *Chain, verb string, extra map[string]any) error {
	for _, p := range chain.Plugins {
		stdin, err := chain.stdin(p, nil, extra)
		if err != nil {
			return err
		}
		_, err = r.exec(ctx, call{
			verb: verb, network: chain.Name, plugin: p, stdin: stdin,
			env: map[string]string{"CNI_COMMAND": verb, "CNI_PATH": r.Path},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
