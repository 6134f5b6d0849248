//go:build amd64

// Command helper is the tracer's launcher. Unlike the test itself it is small and has no race detector, so that it can be
// started a thousand times.
package main

import (
	"fmt"
	"os"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

func main() {
	fmt.Fprintln(os.Stderr, "helper:", tracetest.Launch())
	os.Exit(1)
}
