//go:build apiserver

// Package manifests has a real API server look at conf/. It has no node: cluster run --node=false --apply conf.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func kubectl(ctx context.Context, args ...string) error {
	_, err := output(ctx, args...)
	return err
}

// output is what kubectl prints. Its error holds what it says about it.
func output(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "kubectl", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// eventually calls check until it returns nil, for two minutes at most: what completes "waiting for …".
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		err := check(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

// TestManifestsAreTaken has the API server look at what no other test applies: it knows each field, and all that it would refuse.
func TestManifestsAreTaken(t *testing.T) {
	folders, err := filepath.Glob("../../conf/*/*/kustomization.yaml")
	if err != nil || len(folders) < 10 {
		t.Fatalf("overlays, components, policies: %v, %v", folders, err)
	}
	var all []string // overlays have most objects in common
	for _, path := range folders {
		folder := filepath.Dir(path)
		if strings.Contains(folder, "/components/") { // a part of an overlay
			continue
		}
		manifest, failed := output(t.Context(), "kustomize", folder)
		if failed != nil {
			t.Fatal(failed)
		}
		for object := range strings.SplitSeq(manifest, "\n---\n") {
			if object = strings.TrimSpace(object); !slices.Contains(all, object) {
				all = append(all, object)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.Join(all, "\n---\n"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if n := strings.Count(string(out), "(server dry run)"); n != len(all) || n < len(folders) {
		t.Errorf("%d of %d objects in %d folders were looked at", n, len(all), len(folders))
	}
}

const namespace = "default"

// TestDefinitionsPolicy applies the sample policy, and defines networks under it.
func TestDefinitionsPolicy(t *testing.T) {
	const folder = "../../conf/policies/definitions"
	if err := kubectl(t.Context(), "apply", "-k", folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := kubectl(ctx, "delete", "-k", folder); err != nil {
			t.Error(err)
		}
		if err := kubectl(ctx, "annotate", "namespace", namespace, "viaduct-sriov.github.io/allowed-vlans-"); err != nil {
			t.Error(err)
		}
	})
	if err := kubectl(t.Context(), "annotate", "namespace", namespace, "viaduct-sriov.github.io/allowed-vlans=100-199"); err != nil {
		t.Fatal(err)
	}
	define := func(ctx context.Context, config string) string {
		cmd := exec.CommandContext(ctx, "kubectl", "create", "--dry-run=server", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, "+
			"metadata: {name: tried, namespace: %s}, spec: {config: %q}}", namespace, config))
		out, err := cmd.CombinedOutput()
		if err == nil {
			return ""
		}
		return string(out)
	}
	// A new policy, and a namespace's new annotation, count when the API server has heard of them.
	eventually(t, "the policy to count", func(ctx context.Context) error {
		if got := define(ctx, `{"type": "host-device", "device": "eth0"}`); !strings.Contains(got, "may use the plugins sriov") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	eventually(t, "VLAN 150 to be allowed", func(ctx context.Context) error {
		if got := define(ctx, `{"type": "sriov", "vlan": 150}`); got != "" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	for config, want := range map[string]string{
		`{"type": "sriov", "vlan": 200}`:                "may use the VLANs 100-199",
		`{"type": "sriov", "vlan": 150, "trust": "on"}`: "may not set trust",
	} {
		if got := define(t.Context(), config); !strings.Contains(got, want) {
			t.Errorf("%s: it says %q, want %q", config, got, want)
		}
	}
}
