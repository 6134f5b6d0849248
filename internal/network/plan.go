// Package network turns what a pod asks for into a plan: annotations, network attachment definitions and device ids in,
// exact CNI configurations out. It is pure: no file, no socket, no clock.
package network

import "encoding/json"

// A Pod names one pod. The UID tells it from another pod of the same name.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// A Plan is what one sandbox gets, in the order in which it is to be carried out.
type Plan struct {
	Pod Pod `json:"pod"`
	// Default replaces the node's default network for this pod. Nil: the node's own, which the stub knows.
	Default *Attachment `json:"default,omitempty"`
	// Attachments are the pod's other networks.
	Attachments []Attachment `json:"attachments,omitempty"`
}

// An Attachment is one network of one pod: everything that is needed to run its plugins, now and at DEL.
type Attachment struct {
	// Name is what network-status calls it: "namespace/definition", or the network's own name for the default.
	Name string `json:"name"`
	// IfName is the interface's name in the pod.
	IfName string `json:"ifName"`
	// Config is a complete CNI network configuration list, with cniVersion and name, and with the device id put in.
	Config json.RawMessage `json:"config"`
	// Capabilities are the runtimeConfig values by capability. Each plugin of Config gets those that it declares.
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"`
	// Device is the device that this attachment uses, if it uses one.
	Device *Device `json:"device,omitempty"`
	// DefaultRoute, unless nil, says that the pod's default route goes through this attachment, by these gateways, and
	// through no other. Empty: by the gateways that the attachment's own plugins set.
	DefaultRoute []string `json:"defaultRoute"`
	// IsDefault marks the pod's default network (the one that the runtime sees as eth0).
	IsDefault bool `json:"isDefault,omitempty"`
}

// A Device is one id of one extended resource, as the kubelet gave it to the pod.
type Device struct {
	Resource string `json:"resource"` // such as intel.com/sriov
	ID       string `json:"id"`       // such as 0000:02:10.0
}
