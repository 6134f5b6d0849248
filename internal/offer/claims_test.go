package offer

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A device that changes its pool while the kubelet gives it away goes to one pod only.
func TestAllocateAsTwoResources(t *testing.T) {
	var c claims
	now := time.Now()
	if err := c.allocate("intel.com/a", []string{"0000:02:10.0"}, now); err != nil {
		t.Fatal(err)
	}
	if err := c.allocate("intel.com/a", []string{"0000:02:10.0"}, now); err != nil {
		t.Errorf("again, as a kubelet may that restarted: %v", err)
	}
	if err := c.allocate("intel.com/b", []string{"0000:02:10.2", "0000:02:10.0"}, now); err == nil {
		t.Error("it is given away a second time")
	}
	if diff := cmp.Diff(map[string]string{"0000:02:10.0": "intel.com/a"}, c.held()); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}
