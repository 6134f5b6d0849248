package pci_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/pci/pcitest"
)

var update = flag.Bool("update", false, "write testdata/*.json anew; read the difference before it is committed")

// seen is what the package finds in a tree: the snapshot, and by device the nodes and the representor that it has.
type seen struct {
	Devices      []*pci.Device
	Nodes        map[string]pci.Nodes
	Representors map[string]string `json:",omitempty"`
}

func look(t *testing.T, root string) seen {
	t.Helper()
	snapshot, err := pci.Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	s := seen{Devices: snapshot.Devices(), Nodes: map[string]pci.Nodes{}, Representors: map[string]string{}}
	note := func(id string, nodes pci.Nodes, representor pci.Netdev) {
		if !cmp.Equal(nodes, pci.Nodes{}) {
			s.Nodes[id] = nodes
		}
		if representor.Name != "" {
			s.Representors[id] = representor.Name
		}
	}
	for _, d := range snapshot.Devices() {
		var representor pci.Netdev
		if pf := snapshot.PF(d); pf != nil {
			representor, _ = pf.Representor(d.VFIndex)
		}
		note(d.Address.String(), pci.ReadNodes(root, d.Address), representor)
		for _, sf := range d.Subfunctions {
			representor, _ = d.SubfunctionRepresentor(sf.Number)
			note(sf.Name, pci.ReadSubfunctionNodes(root, sf.Name), representor)
		}
	}
	return s
}

// Each tree of a machine gives what testdata/ says, and a function that is read alone what the scan saw.
func TestTrees(t *testing.T) {
	for _, name := range pcitest.Names(t) {
		t.Run(name, func(t *testing.T) {
			root := pcitest.Load(t, name).Root
			got := look(t, root)
			data, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, append(data, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(data)+"\n"); diff != "" {
				t.Errorf("seen (-want +got):\n%s", diff)
			}
			for _, d := range got.Devices {
				read, err := pci.Read(root, d.Address)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(d, read); diff != "" {
					t.Errorf("scan and read differ (-scan +read):\n%s", diff)
				}
			}
		})
	}
}
