// Command sriov is the CNI plugin that puts an SR-IOV virtual function into a pod and takes it back.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

const about = `sriov: CNI plugin that puts an SR-IOV virtual function (VF) into a pod, of Viaduct %s

A container runtime runs it, with a verb in CNI_COMMAND and a network definition on stdin:

  {"cniVersion": "1.1.0", "name": "fast", "type": "sriov", "vlan": 100, "spoofchk": "on", "trust": "off",
   "ipam": {"type": "host-local", "subnet": "10.56.0.0/24"}}

deviceID, the VF's PCI address, is put in for each pod from what the device plugin allocated. Keys: vlan vlanQoS
vlanProto mac spoofchk trust link_state min_tx_rate max_tx_rate mtu ipam dns logLevel logFile allowPodOverrides.
Which VF belongs to whom is on record in /run/viaduct/vf; "vfctl list" shows it, "vfctl restore" puts one back.
`

func main() {
	// Nothing here runs beside anything else: more than one processor only costs threads.
	runtime.GOMAXPROCS(1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	verb := func(f func(*sriov.Plugin, context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			site, err := sriov.ReadSite(sriov.SiteFile)
			if err != nil {
				return err
			}
			log, closer := sriov.OpenLog(args.StdinData, site.LogDir, os.Stderr)
			defer closer.Close()
			return f(sriov.New(site.StateDir, log), ctx, args)
		}
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    verb((*sriov.Plugin).Add),
		Del:    verb((*sriov.Plugin).Del),
		Check:  verb((*sriov.Plugin).Check),
		GC:     verb((*sriov.Plugin).GC),
		Status: verb((*sriov.Plugin).Status),
	}, version.All, fmt.Sprintf(about, buildVersion()))
	if err == nil {
		return 0
	}
	if printErr := err.Print(); printErr != nil {
		fmt.Fprintln(os.Stderr, "sriov: cannot write the error to stdout:", printErr, "the error:", err)
	}
	return 1
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown version)"
}
