// Command sriov is the CNI plugin that puts an SR-IOV virtual function into a pod and takes it back.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	_ "github.com/viaduct-sriov/viaduct/internal/stack" // first of all
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
	// No GOMAXPROCS(1), although nothing here runs beside anything else: the runtime would take its only processor from
	// each system call that takes longer than a tick, and wake a thread that looks for work.
	// The log speaks of UTC: to find out the machine's zone costs more than all that is logged.
	time.Local = time.UTC
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, sriov.SiteFile))
}

// run carries out the verb in CNI_COMMAND. siteFile is where the node's owner may have put settings.
func run(ctx context.Context, siteFile string) int {
	verb := func(name string, f func(*sriov.Plugin, context.Context, *cni.CmdArgs) error) func(*cni.CmdArgs) error {
		return func(args *cni.CmdArgs) error {
			site, err := sriov.ReadSite(siteFile)
			if err != nil {
				return types.NewError(types.ErrIOFailure, err.Error(), "")
			}
			log, closer := sriov.OpenLog(args.StdinData, site.LogDir, os.Stderr)
			defer closer.Close()
			return f(sriov.New(site.StateDir, log.With("verb", name)), ctx, args)
		}
	}
	return cni.Main(cni.Verbs{
		Add:    verb("ADD", (*sriov.Plugin).Add),
		Del:    verb("DEL", (*sriov.Plugin).Del),
		Check:  verb("CHECK", (*sriov.Plugin).Check),
		GC:     verb("GC", (*sriov.Plugin).GC),
		Status: verb("STATUS", (*sriov.Plugin).Status),
	}, func() string { return fmt.Sprintf(about, buildVersion()) })
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown version)"
}
