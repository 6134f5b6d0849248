//go:build soak

package agent

import (
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
)

// The cluster gets a new certificate authority: client-go reads its file again every five minutes. Pods whose definitions are
// known start meanwhile, and the agent needs no restart.
func TestNewAuthority(t *testing.T) {
	var s secure
	n, rotate := startSecureNode(t, &s, newAuthority(t))
	rotate(newAuthority(t), "second")
	began := time.Now()
	n.api.http.CloseClientConnections()
	n.api.putNAD("b", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	plan := func(name string) error {
		_, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks(name)})
		return err
	}
	if err := plan("b"); err == nil {
		t.Fatal("the agent trusts an authority that it does not know: this test shows nothing")
	}
	for err := plan("b"); err != nil; err = plan("b") {
		if time.Since(began) > 7*time.Minute {
			t.Fatalf("still after 7 min: %v", err)
		}
		if err := plan("a"); err != nil {
			t.Fatalf("a pod with a definition that is known: %v", err)
		}
		time.Sleep(time.Second)
	}
	t.Logf("it was back after %s", time.Since(began).Round(time.Second))
	n.waitCached(t, pod1, networks("b")) // the watches, too
}
