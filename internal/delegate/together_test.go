package delegate

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// Calls on one container that come at once are worked on one after the other: no two plugins of it ever run side by side. What
// an ADD attached is there afterwards, whatever looked for the dead meanwhile, and a DEL leaves nothing.
func TestVerbsAtOnce(t *testing.T) {
	n := newNode(t)
	const do = ` "do":{"ADD":["alone"],"CHECK":["alone"],"DEL":["alone"]}`
	def := network.Attachment{Name: "pods", Config: n.chain("pods", "1.1.0", "rec-a"+do), IsDefault: true}
	plan := []network.Attachment{def, {Name: "shop/one", IfName: "net1", Config: n.chain("one", "1.1.0", "rec-b"+do)}}
	valid := []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}
	verbs := map[string]func() error{
		"ADD": func() error { _, err := n.Add(t.Context(), n.sandbox("c1"), planned(plan)); return err },
		"DEL": func() error { return n.Del(t.Context(), n.sandbox("c1"), def) },
		"GC":  func() error { return n.GC(t.Context(), def, valid) },
		"CHECK": func() error {
			err := n.Check(t.Context(), n.sandbox("c1"))
			if coded, ok := errors.AsType[*types.Error](err); ok && coded.Code == types.ErrUnknownContainer {
				return nil // it was before the ADD, or behind the DEL
			}
			return err
		},
		"sweep": func() error { _, err := n.SweepNow(t.Context(), time.Minute, ""); return err },
	}
	atOnce := func(names ...string) {
		t.Helper()
		var wait sync.WaitGroup
		for _, name := range slices.Concat(names, names) {
			wait.Go(func() {
				if err := verbs[name](); err != nil {
					t.Errorf("%s beside %v: %v", name, names, err)
				}
			})
		}
		wait.Wait()
	}
	for range 5 {
		atOnce("ADD", "CHECK", "GC", "sweep")
		rec := n.record("c1")
		if rec.Phase != Added || len(rec.Attachments) != 2 || rec.Attachments[0].Phase != Added || rec.Attachments[1].Phase != Added {
			t.Errorf("after ADD, the record has %s: %+v", rec.Phase, rec.Attachments)
		}
		if d := cmp.Diff([]string{"effects/c1-eth0-rec-a", "effects/c1-net1-rec-b"}, effects(n)); d != "" {
			t.Errorf("after ADD: -want +got:\n%s", d)
		}
		atOnce("DEL", "CHECK", "GC", "sweep")
		if left := n.left(); left != nil {
			t.Errorf("after DEL, left behind: %v", left)
		}
		if t.Failed() {
			return
		}
	}
	for _, c := range delegatetest.Calls(t, n.journal) {
		if c.Verb != "GC" {
			continue
		}
		var told []types.GCAttachment
		if err := json.Unmarshal(c.Stdin["cni.dev/valid-attachments"], &told); err != nil {
			t.Fatal(err)
		}
		if ours := (types.GCAttachment{ContainerID: "c1", IfName: map[string]string{"rec-a": "eth0", "rec-b": "net1"}[c.Plugin]}); !slices.Contains(told, ours) {
			t.Errorf("GC told %s that of the container nothing is valid: %v", c.Plugin, told)
		}
	}
}

// effects are what the plugins did and did not undo, and whether two of one container ran at once.
func effects(n *node) (out []string) {
	for _, e := range n.left() {
		if strings.HasPrefix(e, "effects/") {
			out = append(out, e)
		}
	}
	return out
}
