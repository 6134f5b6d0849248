package delegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/devinfo"
)

// deviceFileCapability is how a plugin says that it wants to know, or to write, the attachment's device-info file.
const deviceFileCapability = "CNIDeviceInfoFile"

// devicePath is where the attachment's device-info file goes; empty if it has no use for one.
func (r *Runner) devicePath(rec *Record, a *Attached, chain *Chain) (string, error) {
	if a.Device == nil && !chain.declares(deviceFileCapability) {
		return "", nil
	}
	path, err := r.Devices.PodPath(deviceName(a.Name, rec.ContainerID, a.IfName))
	if err != nil {
		return "", fmt.Errorf("network %s on %s: %w", a.Name, a.IfName, err)
	}
	return path, nil
}

// deviceName is what the attachment's device-info file is called, less its ending: the network's name, the container's
// id and the interface. The last two tell it from all others, so a name that would be too long for a file is just cut.
func deviceName(network, containerID, ifName string) string {
	const longest = 220 // what devinfo takes
	name := strings.ReplaceAll(network, "/", "-")
	rest := "-" + containerID + "_" + ifName
	return name[:min(len(name), max(0, longest-len(rest)))] + rest
}

// withDeviceFile adds the file's path to the attachment's capabilities, for the plugins that declare it.
func withDeviceFile(a *Attached) map[string]json.RawMessage {
	if a.DeviceFile == "" {
		return a.Capabilities
	}
	path, err := json.Marshal(a.DeviceFile)
	if err != nil {
		return a.Capabilities // a string can always be encoded
	}
	out := map[string]json.RawMessage{deviceFileCapability: path}
	maps.Copy(out, a.Capabilities)
	return out
}

// copyDeviceInfo puts what the device plugin knows of the attachment's device where the plugins and the pod find it. Not
// every device plugin writes such files.
func (r *Runner) copyDeviceInfo(rec *Record, a *Attached) error {
	if a.Device == nil {
		return nil
	}
	_, err := r.Devices.CopyForPod(a.Device.Resource, a.Device.ID, deviceName(a.Name, rec.ContainerID, a.IfName))
	if err != nil && !errors.Is(err, devinfo.ErrNotExist) {
		return fmt.Errorf("network %s on %s: copy the device information of %s: %w", a.Name, a.IfName, a.Device.ID, err)
	}
	return nil
}

// readDeviceInfo is what stands in the attachment's file after its plugins have run: one of them may have written it.
func (r *Runner) readDeviceInfo(a *Attached) json.RawMessage {
	if a.DeviceFile == "" {
		return nil
	}
	info, err := r.Devices.Read(a.DeviceFile)
	if err != nil {
		if !errors.Is(err, devinfo.ErrNotExist) {
			r.Log.Warn("network-status goes without device information", "network", a.Name, "error", err)
		}
		return nil
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil // what was decoded can be encoded
	}
	return data
}

func (r *Runner) removeDeviceInfo(a *Attached) error {
	if a.DeviceFile == "" {
		return nil
	}
	return r.Devices.Remove(a.DeviceFile)
}
