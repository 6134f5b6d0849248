// Package names tells what vendors call their PCI devices, for people to read. It reads a database of a megabyte and links
// ghw, so it is for programs that print names once, and never for a scan.
package names

import (
	"fmt"

	"github.com/jaypipes/ghw"
	"github.com/jaypipes/ghw/pkg/util"
)

// Names knows names by vendor and device id. The zero value knows none.
type Names struct{ info *ghw.PCIInfo }

// Load reads the machine's pci.ids (where hwdata and pciutils put it, or $PCIDB_PATH). root is the file system whose
// devices are looked at. Without a pci.ids, as in most containers, no name is known: that is no error, ids have to do.
func Load(root string) Names {
	info, err := ghw.PCI(ghw.WithChroot(root), ghw.WithDisableTopology(), ghw.WithDisableWarnings())
	if err != nil {
		return Names{}
	}
	return Names{info}
}

// Device gives the names of a vendor and a device of its, by their ids in hexadecimal such as 8086 and 10ca. Each is empty
// if it is not known.
//
// ghw is not asked for what it found at an address: one function that vanishes while it looks makes it find nothing.
func (n Names) Device(vendor, product string) (vendorName, productName string) {
	if n.info == nil || len(vendor) != 4 || len(product) != 4 {
		return "", ""
	}
	d := n.info.ParseDevice("", fmt.Sprintf("pci:v0000%sd0000%ssv00000000sd00000000bc02sc00i00", vendor, product))
	if d == nil {
		return "", ""
	}
	return known(d.Vendor.Name), known(d.Product.Name)
}

func known(name string) string {
	if name == util.UNKNOWN {
		return ""
	}
	return name
}
