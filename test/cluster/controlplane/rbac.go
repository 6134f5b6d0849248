package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/viaduct-sriov/viaduct/test/cluster/api"
)

// allowKubeletAPI lets the API server ask the kubelet for logs and let it run commands: Kubernetes makes the role, but binds
// it to nobody.
func allowKubeletAPI(ctx context.Context, admin *api.Client) error {
	const group = "rbac.authorization.k8s.io"
	err := admin.Create(ctx, "/apis/"+group+"/v1/clusterrolebindings", map[string]any{
		"apiVersion": group + "/v1",
		"kind":       "ClusterRoleBinding",
		"metadata":   map[string]any{"name": kubeletClient},
		"roleRef":    map[string]any{"apiGroup": group, "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
		"subjects":   []any{map[string]any{"apiGroup": group, "kind": "User", "name": kubeletClient}},
	})
	if err != nil && !errors.Is(err, api.ErrConflict) {
		return fmt.Errorf("let the API server use the kubelet's API: %w", err)
	}
	return nil
}
