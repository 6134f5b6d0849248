package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
)

// setUplink gives the VM's virtio NIC the address that QEMU's user networking expects and forwards to, and the default
// route: this is the link that carries the node's own traffic.
func setUplink() error {
	link, err := uplink()
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(controlplane.NodeIP + "/24")
	if err != nil {
		return err
	}
	err = errors.Join(netlink.AddrReplace(link, addr), netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("set up the node's uplink %s: %w", link.Attrs().Name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(controlplane.GuestHost)}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route through the node's uplink %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func uplink() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		driver, err := os.Readlink(filepath.Join("/sys/class/net", l.Attrs().Name, "device/driver"))
		if err == nil && filepath.Base(driver) == "virtio_net" {
			return l, nil
		}
	}
	return nil, errors.New("no virtio NIC: the VM was started without an uplink")
}

// makeVFs sets the PFs up and makes c.VFs virtual functions on each. In this order: a VF whose PF is down finds nobody to
// talk to when its driver starts, waits seconds in vain, and may stay without carrier.
func (c Config) makeVFs() error {
	found, err := filepath.Glob("/sys/class/net/*/device/sriov_totalvfs")
	if err != nil {
		return err
	}
	for _, path := range found {
		device := filepath.Dir(path)
		name := filepath.Base(filepath.Dir(device))
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find PF %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set PF %s up: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(device, "sriov_numvfs"), []byte(strconv.Itoa(c.VFs)), 0o644); err != nil {
			return fmt.Errorf("make %d VFs on %s: %w", c.VFs, name, err)
		}
	}
	return nil
}
