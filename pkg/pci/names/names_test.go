package names_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci/names"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

const pciIDs = `# Made for this test.
8086  Intel Corporation
	10c9  82576 Gigabit Network Connection
	10ca  82576 Virtual Function
15b3  Mellanox Technologies
C 02  Network controller
	00  Ethernet controller
`

func TestDevice(t *testing.T) {
	database := filepath.Join(t.TempDir(), "pci.ids")
	if err := os.WriteFile(database, []byte(pciIDs), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		vendor, product string
		want            [2]string
	}{
		"both known":     {"8086", "10ca", [2]string{"Intel Corporation", "82576 Virtual Function"}},
		"vendor alone":   {"15b3", "1018", [2]string{"Mellanox Technologies", ""}},
		"neither":        {"1af4", "1041", [2]string{"", ""}},
		"no ids":         {"", "", [2]string{"", ""}},
		"not an id":      {"8086\n8086", "x", [2]string{"", ""}},
		"another's":      {"15b3", "10ca", [2]string{"Mellanox Technologies", ""}},
		"upper-case ids": {"8086", "10CA", [2]string{"Intel Corporation", "82576 Virtual Function"}},
	}
	tree := pcitest.New(t)
	tree.AddIGB("02", "ens2", 4, 2)
	tree.Remove(tree.Dir("0000:02:10.0") + "/modalias") // it vanishes at this moment
	t.Setenv("PCIDB_PATH", database)
	known := names.Load(tree.Root)
	t.Setenv("PCIDB_PATH", filepath.Join(t.TempDir(), "none"))
	none := names.Load(tree.Root)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			vendor, product := known.Device(test.vendor, test.product)
			if diff := cmp.Diff(test.want, [2]string{vendor, product}); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if vendor, product := none.Device(test.vendor, test.product); vendor != "" || product != "" {
				t.Errorf("without a database: %q, %q", vendor, product)
			}
		})
	}
}
