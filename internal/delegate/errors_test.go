package delegate

import (
	"errors"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// What a person reads in the pod's event names the pod, once.
func TestCNIErrorNamesThePodOnce(t *testing.T) {
	pod := network.Pod{Namespace: "ns", Name: "p"}
	tests := map[string]struct {
		err  error
		want string
	}{
		"own":           {errors.New("cannot\nread it"), "pod ns/p: cannot; read it"},
		"the agent's":   {&agentapi.Error{Code: 7, Message: "pod ns/p, network ns/n: no such key"}, "pod ns/p, network ns/n: no such key"},
		"another pod's": {errors.New("pod ns/q has it"), "pod ns/p: pod ns/q has it"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := CNIError(pod, tt.err).Msg; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
