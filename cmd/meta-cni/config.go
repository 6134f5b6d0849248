package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// annotationsCapability is what containerd and CRI-O call the pod's annotations among a plugin's capabilities.
const annotationsCapability = "io.kubernetes.cri.pod-annotations"

// The annotations that ask for anything but the node's default network.
const (
	networksAnnotation       = "k8s.v1.cni.cncf.io/networks"
	defaultNetworkAnnotation = "v1.multus-cni.io/default-network"
)

// config is the plugin's own configuration: what the agent wrote to /etc/cni/net.d, as the runtime passes it on. Only root
// writes there, so paths may stand in it.
type config struct {
	CNIVersion string `json:"cniVersion"`
	// Delegates holds the node's default network as its first element: a CNI configuration or configuration list.
	Delegates []json.RawMessage `json:"delegates"`
	// DefaultNetworks are networks that every pod gets. The stub only looks whether there are any: the agent knows them.
	DefaultNetworks []json.RawMessage `json:"defaultNetworks"`
	// SystemNamespaces are those whose pods get none of DefaultNetworks.
	SystemNamespaces []string `json:"systemNamespaces"`
	// BinDir holds plugins beside the runtime's folders.
	BinDir        string                     `json:"binDir"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`
	PrevResult    json.RawMessage            `json:"prevResult"`
	// ValidAttachments is nil unless the runtime passed a list, at GC.
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`

	AgentSocket   string  `json:"agentSocket"`
	StateDir      string  `json:"stateDir"`
	RunDir        string  `json:"runDir"`
	MultusDir     string  `json:"cniDir"` // as Multus calls it: where it saved what it attached before us
	DeviceInfoDir string  `json:"deviceInfoDir"`
	PluginTimeout seconds `json:"pluginTimeoutSeconds"`
	LockWait      seconds `json:"lockWaitSeconds"`
}

type seconds float64

func (s seconds) duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

func parseConfig(stdin []byte) (*config, error) {
	var c config
	if err := json.Unmarshal(stdin, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read meta-cni's configuration: %v", err), "")
	}
	return &c, nil
}

// defaultNetwork is the node's default network as an attachment. It carries what the runtime passed for it.
func (c *config) defaultNetwork() (network.Attachment, error) {
	if len(c.Delegates) > 1 {
		return network.Attachment{}, types.NewError(types.ErrInvalidNetworkConfig,
			"meta-cni's configuration has more than one of delegates: only the agent can give the others their places",
			"keep this file out of the runtime's folder, and give it to meta-agent as --config")
	}
	if len(c.Delegates) == 0 {
		return network.Attachment{}, types.NewError(types.ErrInvalidNetworkConfig,
			"meta-cni's configuration has no delegates: its first element must be the node's default network",
			"meta-agent writes this configuration when the default network's own is in place")
	}
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(c.Delegates[0], &named); err != nil {
		return network.Attachment{}, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("meta-cni's configuration: delegates[0]: %v", err), "")
	}
	return network.Attachment{
		Name: named.Name, Config: c.Delegates[0], Capabilities: c.RuntimeConfig, IsDefault: true,
	}, nil
}

// annotations are those of the pod's that ask for networks, if the runtime passed the pod's; nil else. None passed and none
// there are two things.
func (c *config) annotations() (map[string]string, error) {
	raw, ok := c.RuntimeConfig[annotationsCapability]
	if !ok {
		return nil, nil //nolint:nilnil // nil is the answer
	}
	var out map[string]string
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure,
			fmt.Sprintf("runtimeConfig: key %s: %v", annotationsCapability, err), "")
	}
	// The others are of no use to the agent, and a pod can have many.
	maps.DeleteFunc(out, func(key, _ string) bool { return key != networksAnnotation && key != defaultNetworkAnnotation })
	return out, nil
}

// needsAgent reports whether the sandbox may get anything but the default network.
func (c *config) needsAgent(pod network.Pod, annotations map[string]string) bool {
	if len(c.DefaultNetworks) > 0 && !slices.Contains(c.SystemNamespaces, pod.Namespace) {
		return true
	}
	if annotations == nil {
		return pod.Name != "" // else it is no pod: somebody uses this configuration without Kubernetes
	}
	return strings.TrimSpace(annotations[networksAnnotation]) != "" ||
		strings.TrimSpace(annotations[defaultNetworkAnnotation]) != ""
}

// parsePod finds the pod in CNI_ARGS: KEY=VALUE pairs, separated by semicolons.
func parsePod(args string) (network.Pod, error) {
	var pod network.Pod
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return network.Pod{}, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_ARGS: %q is not KEY=VALUE", pair), "")
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = value
		case "K8S_POD_NAME":
			pod.Name = value
		case "K8S_POD_UID":
			pod.UID = value
		}
	}
	return pod, nil
}
