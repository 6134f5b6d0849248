// Command meta-cni is the CNI plugin that joins a pod's default network and its other ones. The runtime calls it; it asks
// the node agent what a pod gets, where that is not plain, and runs the networks' own plugins.
package main

import (
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/delegate"
	_ "github.com/viaduct-sriov/viaduct/internal/stack" // first of all
)

// It listens for no signal. One that ends it ends its plugins, too, and leaves a record by which the next call undoes what
// they did; listening would cost each call three threads.
func main() {
	verbs := cni.Verbs{Add: add, Del: del, Check: check, Status: status, GC: gc}
	if os.Getenv(delegate.InsideVariable) != "" {
		verbs = nested
	}
	os.Exit(cni.Main(verbs, func() string { return "meta-cni: CNI plugin that joins a pod's networks, of Viaduct " + buildVersion() }))
}

// nested is what a call from a plugin of one of our networks gets, such as one that passes on a "delegate" of its
// configuration: that is a network's author's, who must not say from which folders programs run as root and where they write.
// Nothing is attached so, and nothing is to be detached.
var nested = cni.Verbs{Add: isNested, Check: isNested, Status: isNested, Del: nothing, GC: nothing}

func isNested(*cni.CmdArgs) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "meta-cni cannot be called by a plugin of one of its own networks",
		"name the plugin that attaches the network where this one names meta-cni, such as in its delegate")
}

func nothing(*cni.CmdArgs) error { return nil }

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
