package delegate

import (
	"errors"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// CNIError is err as the runtime gets it: on one line, with the pod's name and the code of what failed first.
func CNIError(pod network.Pod, err error) *types.Error {
	if err == nil {
		return nil
	}
	msg := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
	// The agent names the pod already in what it finds wrong with the pod's networks.
	if name := "pod " + pod.Namespace + "/" + pod.Name; pod.Name != "" && !strings.HasPrefix(msg, name) {
		msg = name + ": " + msg
	}
	return types.NewError(code(err), msg, "")
}

func code(err error) uint {
	var plugin *PluginError
	var refusal *agentapi.Error
	var own *types.Error
	switch {
	case errors.As(err, &plugin):
		return plugin.Code
	case errors.As(err, &refusal):
		return refusal.Code
	case errors.Is(err, agentapi.ErrUnavailable), errors.Is(err, journal.ErrLocked):
		return types.ErrTryAgainLater
	case errors.Is(err, network.ErrInvalid):
		return types.ErrInvalidNetworkConfig
	case errors.As(err, &own):
		return own.Code
	}
	return types.ErrInternal
}

// DelError is CNIError for DEL, in words that no container runtime takes for success.
func DelError(pod network.Pod, err error) *types.Error { return cni.DelError(CNIError(pod, err)) }
