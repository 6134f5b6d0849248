package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The agent is stopped, or was killed, under running pods: what needs it says so and leaves nothing, all else goes on, and when
// it is back it serves at once.
func TestAgentAway(t *testing.T) {
	for name, away := range map[string]func(n *node) error{
		"stopped": func(*node) error { return nil },
		"killed": func(n *node) error { // its socket is still there
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.socket})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			a := &agent{plan: n.twoNetworks()}
			sandbox := func(what, annotations string) *node {
				pod := *n
				pod.id, pod.annotations = fmt.Sprintf("%s-%s-%d", name, what, os.Getpid()), annotations
				return &pod
			}
			const networks = `{"k8s.v1.cni.cncf.io/networks":"one,two"}`
			up := func(why string, do func()) {
				t.Run(why, func(t *testing.T) { // it is stopped with the subtest
					with := *n
					with.t = t
					a.serve(&with)
					do()
				})
			}
			before, after := sandbox("before", networks), sandbox("after", networks)
			up("first", func() { before.ok("ADD") })
			if err := away(n); err != nil {
				t.Fatal(err)
			}
			plain := sandbox("plain", `{}`)
			plain.ok("ADD")
			before.ok("CHECK")
			_, refused := after.run("ADD")
			if refused == nil || refused.Code != 11 || !strings.Contains(refused.Error(), "meta-agent") {
				t.Errorf("ADD of a pod with networks: %v; want code 11 with the agent's name", refused)
			}
			n.extra = fmt.Sprintf(`,"cni.dev/valid-attachments":[{"containerID":%q,"ifname":"eth0"}]`, plain.id)
			n.ok("GC") // tears down the one from before
			n.extra = ""
			before.ok("DEL")
			plain.ok("DEL")
			want := []string{
				"ADD rec-a eth0", "ADD rec-b net1", "ADD rec-c net2", "ADD rec-a eth0", "CHECK rec-a eth0", "CHECK rec-b net1", "CHECK rec-c net2",
				"DEL rec-c net2", "DEL rec-b net1", "DEL rec-a eth0", "GC rec-a", "DEL rec-a eth0", "DEL rec-a eth0",
			}
			if diff := cmp.Diff(want, n.trace()); diff != "" {
				t.Errorf("calls without the agent: -want +got:\n%s", diff)
			}
			if err := os.Remove(n.socket); err != nil && !errors.Is(err, os.ErrNotExist) { // as a new agent does
				t.Fatal(err)
			}
			up("again", func() { after.ok("ADD") })
			after.ok("DEL")
			if left := n.left(); left != nil {
				t.Errorf("left behind: %v", left)
			}
			if len(a.reports) != 2 {
				t.Errorf("%d reports, want those of two pods", len(a.reports))
			}
		})
	}
}
