package offer

import (
	"errors"

	"github.com/viaduct-sriov/viaduct/internal/cdi"
)

// sweep removes the files of devices that no pod has: the device-info of the pools' own devices, since the folder is shared
// with other device plugins, and all CDI specifications of ours. What cannot be removed now is tried again in the next
// round.
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
	for i := range o.Config.inForce.Pools {
		resource := o.Config.inForce.Pools[i].Resource
		ids, err := o.DevInfo.Devices(resource)
		faults = append(faults, err)
		for _, id := range ids {
			if o.last[id].resource != resource || claimed[id].resource == resource {
				continue
			}
			path, err := o.DevInfo.DevicePath(resource, id)
			if err == nil {
				err = o.DevInfo.Remove(path)
			}
			if err != nil {
				faults = append(faults, err)
				continue
			}
			o.Log.Info("remove device-info of a free device", "resource", resource, "device", id)
		}
	}
	return errors.Join(faults...)
}
