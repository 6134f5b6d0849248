package plugin

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrefer(t *testing.T) {
	// PFs a and b are on node 0, c on node 1; a has two devices, b three, c four.
	var devices []Device
	for pf, n := range map[string]int{"a": 2, "b": 3, "c": 4} {
		for i := range n {
			d := Device{ID: fmt.Sprint(pf, i), PF: pf}
			if pf == "c" {
				d.NUMANode = 1
			}
			devices = append(devices, d)
		}
	}
	devices = append(devices, Device{ID: "sick", PF: "a", Unhealthy: "no driver is bound to it"})
	all := []string{"a0", "a1", "b0", "b1", "b2", "c0", "c1", "c2", "c3"}
	tests := map[string]struct {
		spread          bool
		available, must []string
		size            int
		want            []string
	}{
		"one, packed: the fullest node that holds it, the fullest PF": {available: all, size: 1, want: []string{"c0"}},
		"two, packed":        {available: all, size: 2, want: []string{"c0", "c1"}},
		"five fit on node 0": {available: all, size: 5, want: []string{"a0", "a1", "b0", "b1", "b2"}},
		"packed on one PF":   {available: all[:5], size: 2, want: []string{"a0", "a1"}},
		"one, spread":        {spread: true, available: all[:5], size: 1, want: []string{"b0"}},
		"spread over PFs":    {spread: true, available: all[:5], size: 3, want: []string{"b0", "a0", "b1"}},
		"must be in":         {available: all, must: []string{"b1"}, size: 2, want: []string{"b1", "b0"}},
		"more than a node":   {available: all, size: 6, want: []string{"a0", "a1", "b0", "b1", "b2", "c0"}},
		"not enough":         {available: []string{"a0"}, size: 2, want: []string{"a0"}},
		"none asked for":     {available: all, size: 0, want: []string{}},
		"less than none":     {available: all, size: -3, want: []string{}},
		"must is all":        {available: all, must: []string{"b1", "c0"}, size: 1, want: []string{"b1", "c0"}},
		"must twice":         {available: []string{"b1", "b1", "a0"}, must: []string{"b1"}, size: 3, want: []string{"b1", "a0"}},
		"sick":               {available: []string{"sick", "a0"}, size: 2, want: []string{"a0"}},
		"unknown":            {available: []string{"x", "a0"}, size: 1, want: []string{"a0"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := &Resource{Devices: devices, Spread: test.spread}
			if diff := cmp.Diff(test.want, append([]string{}, prefer(r, test.available, test.must, test.size)...)); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}
