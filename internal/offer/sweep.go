package offer

import (
	"errors"
	"slices"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
	"github.com/viaduct-sriov/viaduct/internal/plugin"
)

// own notes on disk which resources' device-info is ours, before there is any: the folder is shared with other device plugins,
// and a pool may leave the configuration, or this program restart, while a pod has its devices.
func (o *Offer) own(resources []plugin.Resource) {
	owned := o.owned
	if owned == nil {
		var err error
		if owned, err = o.DevInfo.Resources(); err != nil {
			o.Log.Warn("files of resources that are no longer configured will stay", "err", err)
		}
	}
	all := slices.Clone(owned)
	for _, r := range resources {
		all = append(all, r.Name)
	}
	o.setOwned(all)
}

func (o *Offer) setOwned(resources []string) {
	slices.Sort(resources)
	resources = slices.Compact(resources)
	if o.owned != nil && slices.Equal(resources, o.owned) {
		return
	}
	if err := o.DevInfo.SetResources(resources); err != nil {
		o.Log.Warn("files of these resources will stay if they leave the configuration", "resources", resources, "err", err)
	}
	o.owned = append([]string{}, resources...) // not nil
}

// sweep removes the files of devices that no pod has: the device-info of our resources, and all CDI specifications of ours.
// What cannot be removed now is tried again in the next round.
func (o *Offer) sweep(claimed map[string]claim) {
	err := o.sweepDevInfo(claimed)
	if o.CDI != nil {
		inUse := make([]cdi.Device, 0, len(claimed))
		for id, c := range claimed {
			inUse = append(inUse, cdi.Device{Resource: c.resource, ID: id})
		}
		removed, cdiErr := o.CDI.Sweep(inUse)
		if len(removed) > 0 {
			o.Log.Info("remove CDI specifications of free devices", "files", removed)
		}
		err = errors.Join(err, cdiErr)
	}
	if err != nil {
		o.Log.Warn("remove files of free devices; try again soon", "err", err)
	}
}

func (o *Offer) sweepDevInfo(claimed map[string]claim) error {
	var faults []error
	var owned []string
	for _, resource := range o.owned {
		ids, err := o.DevInfo.Devices(resource)
		faults = append(faults, err)
		left := len(ids)
		for _, id := range ids {
			if claimed[id].resource == resource {
				continue
			}
			if failed := o.removeDevInfo(resource, id); failed != nil {
				faults = append(faults, failed)
				continue
			}
			left--
			o.Log.Info("remove device-info of a free device", "resource", resource, "device", id)
		}
		configured := slices.ContainsFunc(o.last.resources, func(r plugin.Resource) bool { return r.Name == resource })
		if left > 0 || configured || err != nil {
			owned = append(owned, resource)
		}
	}
	o.setOwned(owned)
	return errors.Join(faults...)
}

func (o *Offer) removeDevInfo(resource, id string) error {
	path, err := o.DevInfo.DevicePath(resource, id)
	if err != nil {
		return err
	}
	return o.DevInfo.Remove(path)
}
