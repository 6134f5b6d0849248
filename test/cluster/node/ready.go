package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/viaduct-sriov/viaduct/test/cluster/api"
	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
)

type nodeObject struct {
	Spec struct {
		Taints []struct{ Key string }
	}
	Status struct {
		Conditions []struct{ Type, Status, Message string }
	}
}

// ready returns nil when a pod would start now: the node says so, nothing keeps pods away, and the account they run under
// by default exists.
func ready(ctx context.Context, admin *api.Client) error {
	var node nodeObject
	if err := admin.Get(ctx, "/api/v1/nodes/"+controlplane.NodeName, &node); err != nil {
		return err
	}
	if err := node.ready(); err != nil {
		return err
	}
	return admin.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}

func (n nodeObject) ready() error {
	err := errors.New("the node has no condition Ready yet")
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" && c.Status != "True" {
			err = fmt.Errorf("the node is not ready: %s", c.Message)
		} else if c.Type == "Ready" {
			err = nil
		}
	}
	for _, t := range n.Spec.Taints {
		err = errors.Join(err, fmt.Errorf("the node has taint %s", t.Key))
	}
	return err
}
