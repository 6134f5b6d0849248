// Package docs holds no code: its test reads the examples on these pages as the programs would.
package docs

import (
	"os"
	"regexp"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

func TestExamples(t *testing.T) {
	page, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	readers := map[string]func(example string) error{
		"pools": func(example string) error {
			_, warnings, err := pool.Parse([]byte(example), "intel.com")
			if err == nil && len(warnings) > 0 {
				err = warnings
			}
			return err
		},
		"network": func(example string) error {
			_, err := sriov.Parse([]byte(example), "")
			return err
		},
		"pod": func(example string) error {
			_, err := network.ParseSelections(example, "default")
			return err
		},
	}
	examples := regexp.MustCompile("(?s)<!-- (\\w+) -->\n```json\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(examples) != len(readers) {
		t.Errorf("%d examples, want %d", len(examples), len(readers))
	}
	for _, e := range examples {
		if err := readers[e[1]](e[2]); err != nil {
			t.Errorf("%s: %v", e[1], err)
		}
	}
}
