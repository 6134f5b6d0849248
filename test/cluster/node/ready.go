package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
	"github.com/viaduct-sriov/viaduct/test/cluster/process"
)

type nodeObject struct {
	Spec struct {
		Taints []struct{ Key string }
	}
	Status struct {
		Conditions []struct{ Type, Status, Message string }
	}
}

// awaitReady returns when a pod would start now, and find the API server.
func (c Config) awaitReady(ctx context.Context, group *process.Group) error {
	admin, err := c.Secrets.Admin(controlplane.GuestServer)
	if err != nil {
		return err
	}
	service, err := c.Secrets.Admin(controlplane.ServiceServer)
	if err != nil {
		return err
	}
	return group.Await(ctx, "the node to be ready", 5*time.Minute, func(ctx context.Context) error {
		var node nodeObject
		if err := admin.Get(ctx, "/api/v1/nodes/"+controlplane.NodeName, &node); err != nil {
			return err
		}
		if err := node.ready(); err != nil { // it says so, and nothing keeps pods away
			return err
		}
		if err := admin.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil); err != nil {
			return err // pods run under this account
		}
		return service.Get(ctx, "/readyz", nil) // kube-proxy has set its rules
	})
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
