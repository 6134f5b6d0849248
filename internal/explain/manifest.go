// Package explain tells what networks a pod would get, from manifests alone.
package explain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"sigs.k8s.io/yaml"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A Pod is what a manifest says of a pod, or of pods of one template.
type Pod struct {
	network.Pod
	Annotations map[string]string
	// Devices are stand-ins, by resource, for those that the kubelet will give to the pod's containers: #001, #002, …
	Devices map[string][]string
	// HostNetwork is set if the pod shares the node's own network: no CNI plugin is called for it.
	HostNetwork bool
}

// Manifests are the objects of one or more files.
type Manifests struct {
	Pods        []Pod
	Definitions map[network.Reference]*network.Definition
}

// maxDevices bounds the stand-ins of one resource: no pod has more networks.
const maxDevices = 2 * network.MaxAttachments

// object is what matters of any of the kinds.
type object struct {
	Kind     string   `json:"kind"`
	Metadata metadata `json:"metadata"`
	Items    []object `json:"items"`
	Spec     struct {
		podSpec
		Config   json.RawMessage `json:"config"` // of a NetworkAttachmentDefinition
		Template *struct {
			Metadata metadata `json:"metadata"`
			Spec     podSpec  `json:"spec"`
		} `json:"template"`
		JobTemplate *struct { // of a CronJob
			Spec struct {
				Template *struct {
					Metadata metadata `json:"metadata"`
					Spec     podSpec  `json:"spec"`
				} `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

type metadata struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Annotations map[string]string `json:"annotations"`
}

type podSpec struct {
	HostNetwork    bool        `json:"hostNetwork"`
	Containers     []container `json:"containers"`
	InitContainers []container `json:"initContainers"`
}

type container struct {
	RestartPolicy string `json:"restartPolicy"`
	Resources     struct {
		Limits map[string]quantity `json:"limits"`
	} `json:"resources"`
}

// A quantity is a number or a string.
type quantity string

func (q *quantity) UnmarshalJSON(data []byte) error {
	*q = quantity(bytes.Trim(data, `"`))
	return nil
}

var separator = regexp.MustCompile(`(?m)^---.*$`)

// Read adds the objects of a file, which may hold several YAML or JSON documents, and lists. Kinds that are neither pods,
// nor templates of pods, nor network definitions are passed over. The namespace stands where an object names none.
func (m *Manifests) Read(data []byte, namespace string) error {
	for _, document := range separator.Split(string(data), -1) {
		if len(bytes.TrimSpace([]byte(document))) == 0 {
			continue
		}
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return fmt.Errorf("read a manifest: %w", err)
		}
		if err := m.add(o, namespace); err != nil {
			return fmt.Errorf("read a manifest: %w", err)
		}
	}
	return nil
}

func (m *Manifests) add(o object, namespace string) error {
	for _, item := range o.Items {
		if err := m.add(item, namespace); err != nil {
			return err
		}
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = namespace
	}
	switch {
	case o.Kind == "NetworkAttachmentDefinition":
		m.addDefinition(o)
	case o.Kind == "Pod":
		return m.addPod(o.Metadata, o.Metadata, o.Spec.podSpec)
	case o.Spec.Template != nil:
		return m.addPod(o.Metadata, o.Spec.Template.Metadata, o.Spec.Template.Spec)
	case o.Spec.JobTemplate != nil && o.Spec.JobTemplate.Spec.Template != nil:
		t := o.Spec.JobTemplate.Spec.Template
		return m.addPod(o.Metadata, t.Metadata, t.Spec)
	}
	return nil
}

func (m *Manifests) addDefinition(o object) {
	if m.Definitions == nil {
		m.Definitions = map[network.Reference]*network.Definition{}
	}
	var config *string
	bad := len(o.Spec.Config) > 0 && json.Unmarshal(o.Spec.Config, &config) != nil
	if config == nil {
		config = new(string)
	}
	d := network.ParseDefinition(o.Metadata.Namespace, o.Metadata.Name, o.Metadata.Annotations[network.ResourceAnnotation], *config)
	if bad {
		d.Err = network.NotAString(d)
	}
	m.Definitions[network.Reference{Namespace: d.Namespace, Name: d.Name}] = d
}

// addPod refuses names that no API server takes: they are shown, and a terminal would act on what is in them.
func (m *Manifests) addPod(owner, meta metadata, spec podSpec) error {
	devices := spec.devices()
	for _, name := range append([]string{owner.Namespace, owner.Name}, slices.Sorted(maps.Keys(devices))...) {
		if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
			return fmt.Errorf("%q cannot be the name of a pod, a namespace or a resource", name)
		}
	}
	m.Pods = append(m.Pods, Pod{
		Pod:         network.Pod{Namespace: owner.Namespace, Name: owner.Name, UID: owner.UID},
		Annotations: meta.Annotations, Devices: devices, HostNetwork: spec.HostNetwork,
	})
	return nil
}

// devices counts what the kubelet tells of: the devices of containers and sidecars, not those of init containers that end.
func (s podSpec) devices() map[string][]string {
	all := map[string][]string{}
	take := func(c container) {
		for resource, quantity := range c.Resources.Limits {
			n, err := strconv.Atoi(string(quantity))
			if err != nil {
				continue // cpu: 500m; devices are whole
			}
			for range min(n, maxDevices) {
				all[resource] = append(all[resource], fmt.Sprintf("#%03d", len(all[resource])+1))
			}
		}
	}
	for _, c := range s.Containers {
		take(c)
	}
	for _, c := range s.InitContainers {
		if c.RestartPolicy == "Always" {
			take(c)
		}
	}
	for _, plain := range []string{"cpu", "memory", "ephemeral-storage"} {
		delete(all, plain)
	}
	return all
}
