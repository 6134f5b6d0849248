// Command standin is the stand-in CNI plugin of package delegatetest, by a link whose name starts with "rec-". It is no test
// binary: those are large, and with the race detector each start of one takes a good part of a second.
package main

import (
	"fmt"
	"os"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
)

func main() {
	delegatetest.Plugin()
	fmt.Fprintln(os.Stderr, "standin: it has to be called by a name that starts with rec-")
	os.Exit(1)
}
