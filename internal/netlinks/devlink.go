package netlinks

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNoDevlink means that a device is not on devlink: its driver does not use it, or is just reloading.
var ErrNoDevlink = errors.New("the device is not on devlink")

// DDPProfile is the name of the DDP package that a PCI function's firmware runs, as in fw.app.name of
// "devlink dev info pci/0000:3b:00.0". Empty: it has none, or its driver does not say. It waits while the firmware is
// flashed, for minutes. Errors wrap ErrNoDevlink or are the kernel's.
func DDPProfile(address string) (string, error) {
	versions, err := runningVersions("pci", address)
	return versions["fw.app.name"], err
}

// runningVersions is what a device's driver says of the firmware that runs in it. None: it says nothing.
func runningVersions(bus, device string) (map[string]string, error) {
	family, err := netlink.GenlFamilyGet(nl.GENL_DEVLINK_NAME)
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoDevlink // no driver that is loaded uses it
	}
	if err != nil {
		return nil, fmt.Errorf("find devlink in the kernel: %w", err)
	}
	request := nl.NewNetlinkRequest(int(family.ID), 0)
	request.AddData(&nl.Genlmsg{Command: nl.DEVLINK_CMD_INFO_GET, Version: nl.GENL_DEVLINK_VERSION})
	request.AddData(nl.NewRtAttr(nl.DEVLINK_ATTR_BUS_NAME, nl.ZeroTerminated(bus)))
	request.AddData(nl.NewRtAttr(nl.DEVLINK_ATTR_DEV_NAME, nl.ZeroTerminated(device)))
	messages, err := request.Execute(unix.NETLINK_GENERIC, 0)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("ask about %s/%s: %w", bus, device, ErrNoDevlink)
	case err != nil:
		return nil, fmt.Errorf("ask devlink about %s/%s: %w", bus, device, err)
	}
	versions := map[string]string{}
	for _, m := range messages {
		parseVersions(m, versions)
	}
	return versions, nil
}

// parseVersions reads a message of DEVLINK_CMD_INFO_GET: each version is an attribute with a name and a value in it.
func parseVersions(message []byte, versions map[string]string) {
	if len(message) < nl.SizeofGenlmsg {
		return
	}
	eachAttribute(message[nl.SizeofGenlmsg:], func(kind int, version []byte) {
		if kind != nl.DEVLINK_ATTR_INFO_VERSION_RUNNING {
			return
		}
		var name, value string
		eachAttribute(version, func(kind int, text []byte) {
			switch kind {
			case nl.DEVLINK_ATTR_INFO_VERSION_NAME:
				name = unix.ByteSliceToString(text)
			case nl.DEVLINK_ATTR_INFO_VERSION_VALUE:
				value = unix.ByteSliceToString(text)
			}
		})
		versions[name] = value
	})
}

// eachAttribute walks attributes as far as they are whole. The library's own parser panics where the last has no padding.
func eachAttribute(b []byte, each func(kind int, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return
		}
		each(int(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)), b[unix.SizeofNlAttr:size])
		b = b[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
	}
}
