package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/offer"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/pkg/pci/names"
)

// dryRun shows what the configuration would offer on this node, or on the tree below -root, of which the meaning of
// interfaces to their node is not known: there, nothing is taken for an uplink. What pods have now stays where it is, if the
// kubelet says so.
func dryRun(ctx context.Context, o *options, stdout io.Writer, log *slog.Logger) error {
	data, file, err := o.configFile().Read()
	if err != nil {
		return err
	}
	config, warnings, err := pool.Parse(data, o.prefix)
	for _, w := range warnings {
		log.Warn("the configuration is odd", "file", file, "where", w.Path, "line", w.Line, "what", w.Message)
	}
	if err != nil {
		return fmt.Errorf("%s is faulty:\n%w", file, err)
	}
	links := netlinks.NodeLinks
	var held map[string]string
	if filepath.Clean(o.root) != "/" {
		links = nil
	} else if held, _, err = o.holder().Held(ctx); err != nil {
		log.Info("it is not known what pods have: this is what there would be without them", "err", err)
	}
	devices, err := inventory.Once(o.root, links)
	if err != nil {
		return err
	}
	if links != nil && config.AsksForDDP() {
		devices = (&inventory.Profiles{Log: log}).Fill(devices)
	}
	report := offer.NewReport(config, devices, held, names.Load(o.root).Device)
	if o.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	return report.Print(stdout)
}
