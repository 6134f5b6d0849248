// Device-plugin offers the node's SR-IOV devices to the kubelet as extended resources.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/offer"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
)

func main() {
	beFrugal(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	running, _ := os.ReadFile("/proc/1/cmdline") // elsewhere than in a container it is another program's
	err := run(ctx, likeRunning(os.Args[1:], running), os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "device-plugin:", err)
		os.Exit(1)
	}
}

// beFrugal keeps a program small that is on every node and mostly waits: a heap that grows by a quarter is collected. There is no
// memory limit: the runtime needs some megabytes beside the heap, more with more CPUs, and where a limit leaves too little for
// the heap it collects without a break.
func beFrugal(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	if o.dryRun {
		return dryRun(ctx, o, stdout, log)
	}
	for _, notice := range o.notices {
		log.Warn("a flag has no effect", "why", notice)
	}
	return serve(ctx, o, log)
}

func (o *options) configFile() *offer.ConfigFile {
	return &offer.ConfigFile{Path: o.config, Node: o.nodeName, Prefix: o.prefix}
}

func (o *options) holder() offer.PodResources {
	return offer.PodResources{
		Socket:  filepath.Join(o.kubeletRoot, "pod-resources", "kubelet.sock"),
		Kubelet: filepath.Join(o.devicePluginDir, "kubelet.sock"), Namespace: o.podNamespace, Pod: o.podName,
	}
}

// serve runs until ctx ends. Nothing that happens on the node ends it earlier; only a metrics address that is taken does.
func serve(ctx context.Context, o *options, log *slog.Logger) error {
	devices := inventory.New(o.root, log, inventory.Options{})
	reload := make(chan struct{}, 1)
	of := &offer.Offer{
		Config: o.configFile(), Inventory: devices, Log: log, Reload: reload,
		Holder:  o.holder(),
		DevInfo: devinfo.Dir{Root: o.devInfoDir}, CDI: o.cdi, After: o.after,
	}
	metrics := offer.NewMetrics(of, devices)
	of.Set = plugin.NewSet(plugin.Config{
		RegistryDir: filepath.Join(o.kubeletRoot, "plugins_registry"), DevicePluginDir: o.devicePluginDir, Root: o.root,
		DevInfo: of.DevInfo, CDI: of.CDI, Log: log, Allocating: of.Allocating, Allocated: metrics.Allocated,
	})

	asked := ctx.Done() // to end
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if o.metrics != "" {
		if err := serveHTTP(ctx, &wg, o.metrics, of.Handler(metrics), cancel); err != nil {
			return err
		}
	}
	wg.Go(func() { hangups(ctx, reload) })
	wg.Go(func() { devices.Run(ctx) })
	wg.Go(func() { of.Run(ctx) })
	log.Info("started", "root", o.root, "config", o.config, "kubelet", o.kubeletRoot, "metrics", o.metrics, "cdi", o.cdi != nil)
	wg.Wait()
	of.Set.Close() //nolint:contextcheck // ctx has ended: stopping is what is left to do
	select {
	case <-asked:
		log.Info("stopped")
		return nil
	default:
		return context.Cause(ctx)
	}
}

// hangups passes SIGHUP on: it asks for a look at the configuration, and must not end the process.
func hangups(ctx context.Context, reload chan<- struct{}) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case <-signals:
			select {
			case reload <- struct{}{}:
			default: // one look is due already
			}
		case <-ctx.Done():
			return
		}
	}
}

func serveHTTP(ctx context.Context, wg *sync.WaitGroup, address string, handler http.Handler, fail context.CancelCauseFunc) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w (choose another -metrics-address; empty for none)", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	wg.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("serve metrics: %w", err))
		}
	})
	wg.Go(func() {
		<-ctx.Done()
		_ = server.Close() // nobody waits for an answer to the end
	})
	return nil
}
