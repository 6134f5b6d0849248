//go:build amd64

// Command helper is a stand-in CNI plugin if its name says so, and the tracer's launcher otherwise. Unlike the test itself
// it is small and has no race detector, so that it can be started a thousand times.
package main

import (
	"fmt"
	"os"

	"github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest"
	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

func main() {
	delegatetest.Plugin()
	fmt.Fprintln(os.Stderr, "helper:", tracetest.Launch())
	os.Exit(1)
}
