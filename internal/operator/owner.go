package operator

import (
	"cmp"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

// An Owner is who has a VF, as far as it is known.
type Owner struct {
	Namespace   string `json:"namespace,omitempty"`
	Pod         string `json:"pod,omitempty"`
	Container   string `json:"container,omitempty"`   // which of the pod's containers the kubelet gave it to
	ContainerID string `json:"containerID,omitempty"` // of the sandbox
	Interface   string `json:"interface,omitempty"`   // its name in the pod
	Network     string `json:"network,omitempty"`
	Alive       bool   `json:"alive"` // the sandbox's network namespace is there
}

// owner is who has the device, by its record, and by the kubelet for what has none; other is who has it by the kubelet, if
// the record does not say the same.
func (l *look) owner(id string, view *sriov.View) (o, other *Owner) {
	held, isHeld := l.kubelet.held[id]
	if view == nil || !view.Open() {
		if !isHeld {
			return nil, nil
		}
		o = &Owner{Namespace: held.namespace, Pod: held.pod, Container: held.container, Alive: true}
		if rec := l.device[id]; rec != nil && rec.Pod.Name == held.pod && rec.Pod.Namespace == held.namespace {
			o.ContainerID = rec.ContainerID
		}
		return o, nil
	}
	o = l.recorded(view.Record)
	o.Alive = view.Alive
	if isHeld && (o.Pod != held.pod || o.Namespace != held.namespace) {
		other = &Owner{Namespace: held.namespace, Pod: held.pod, Container: held.container}
	}
	if isHeld && (o.Pod == "" || o.Pod == held.pod && o.Namespace == held.namespace) {
		o.Namespace, o.Pod, o.Container = held.namespace, held.pod, held.container
	}
	return o, other
}

// recorded is the owner that a record names, with its pod: as the runtime told it, or as the meta CNI plugin knows it.
func (l *look) recorded(r *sriov.Record) *Owner {
	o := &Owner{ContainerID: r.Owner.ContainerID, Interface: r.Owner.IfName, Network: r.Owner.Network}
	if r.Invocation != nil {
		for pair := range strings.SplitSeq(r.Invocation.Args, ";") {
			switch key, value, _ := strings.Cut(pair, "="); key {
			case "K8S_POD_NAMESPACE":
				o.Namespace = value
			case "K8S_POD_NAME":
				o.Pod = value
			}
		}
	}
	if rec := l.pods[o.ContainerID]; rec != nil && o.Pod == "" {
		o.Namespace, o.Pod = rec.Pod.Namespace, rec.Pod.Name
	}
	return o
}

// String names the owner in a line.
func (o *Owner) String() string {
	who := cmp.Or(o.Pod, short(o.ContainerID), "?")
	if o.Pod != "" {
		who = o.Namespace + "/" + o.Pod
	}
	if o.Interface != "" {
		who += " " + o.Interface
	} else if o.Container != "" {
		who += " (" + o.Container + ")"
	}
	return who
}

// short is the part of a container id that runtimes show.
func short(id string) string {
	if len(id) > 13 {
		return id[:13]
	}
	return id
}
