package offer

import (
	"context"
	"log/slog"

	"github.com/viaduct-sriov/viaduct/internal/inventory"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// reasons are what was logged already, so that a round that changes nothing says nothing.
type reasons struct {
	empty   map[string]bool              // pools without a device
	refused map[string]map[string]string // by device and resource: why it is not in the pool
}

// explain logs pools that have no device, and, for who wants to know that much, why each device is in no pool, or in
// another one.
func (o *Offer) explain(ctx context.Context, c *pool.Config, devices []*inventory.Device, held map[string]string, resources []plugin.Resource) {
	empty := map[string]bool{}
	for _, r := range resources {
		if len(r.Devices) > 0 {
			continue
		}
		empty[r.Name] = true
		if !o.reasons.empty[r.Name] {
			o.Log.Warn("no device is in the pool: device-plugin -dry-run tells for each why", "resource", r.Name, "devices", len(devices))
		}
	}
	o.reasons.empty = empty
	if o.Log.Enabled(ctx, slog.LevelDebug) {
		o.explainDevices(c, devices, held)
	}
}

func (o *Offer) explainDevices(c *pool.Config, devices []*inventory.Device, held map[string]string) {
	now := make(map[string]map[string]string, len(devices))
	for _, d := range devices {
		before := o.reasons.refused[d.ID]
		refused := map[string]string{}
		for _, r := range pool.Explain(c, &d.Device, held) {
			refused[r.Resource] = r.Reason
			if before[r.Resource] != r.Reason {
				o.Log.Debug("device is not in the pool", "device", d.ID, "resource", r.Resource, "reason", r.Reason)
			}
		}
		now[d.ID] = refused
	}
	o.reasons.refused = now
}
