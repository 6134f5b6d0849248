//go:build cluster

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestFaults makes pods that cannot get what they name. Each must learn why from an event, must not run with fewer networks
// than it asked for, and must leave nothing.
func TestFaults(t *testing.T) {
	tests := []struct {
		name string
		pod  pod
		says []string
	}{
		{
			name: "no such network",
			pod:  pod{name: "absent-network", networks: "nowhere", vfs: 1},
			says: []string{"e2e/nowhere", "there is no NetworkAttachmentDefinition", "create it"},
		},
		{
			name: "network with broken JSON",
			pod:  pod{name: "broken-network", networks: "broken", vfs: 1},
			says: []string{"e2e/broken", "spec.config", "it is not JSON", "at byte 53"},
		},
		{
			name: "annotation with broken JSON",
			pod:  pod{name: "broken-annotation", networks: `[{"name": "vlan100"`, vfs: 1},
			says: []string{"key " + networksAnnotation, "it is not JSON", "at byte 19"},
		},
		{
			name: "network without its resource",
			pod:  pod{name: "no-resource", networks: "vlan100"},
			says: []string{"e2e/vlan100", "need 1 of the resource " + resource, "the pod has 0", "resources.limits"},
		},
		{
			name: "fault after a good network",
			pod:  pod{name: "half", networks: "vlan100, vlan200", vfs: 1},
			says: []string{"e2e/vlan200", "need 2 of the resource " + resource, "the pod has 1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			leaveNothing(t)
			tt.pod.create(t)
			tt.pod.event(t, "FailedCreatePodSandBox", tt.says...)
			tt.pod.event(t, "InvalidNetwork", tt.says...) // the agent's own, once for each fault
			got, err := tt.pod.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.Status.Phase != corev1.PodPending {
				t.Errorf("the pod is %s, want Pending", got.Status.Phase)
			}
		})
	}
}
