package netlinks

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// infoMessage is an answer to DEVLINK_CMD_INFO_GET, put together as net/devlink/dev.c does for ice.
func infoMessage() []byte {
	message := (&nl.Genlmsg{Command: nl.DEVLINK_CMD_INFO_GET, Version: nl.GENL_DEVLINK_VERSION}).Serialize()
	add := func(a *nl.RtAttr) { message = append(message, a.Serialize()...) }
	version := func(kind int, name, value string) {
		a := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
		a.AddRtAttr(nl.DEVLINK_ATTR_INFO_VERSION_NAME, nl.ZeroTerminated(name))
		a.AddRtAttr(nl.DEVLINK_ATTR_INFO_VERSION_VALUE, nl.ZeroTerminated(value))
		add(a)
	}
	add(nl.NewRtAttr(nl.DEVLINK_ATTR_BUS_NAME, nl.ZeroTerminated("pci")))
	add(nl.NewRtAttr(nl.DEVLINK_ATTR_DEV_NAME, nl.ZeroTerminated("0000:3b:00.0")))
	add(nl.NewRtAttr(nl.DEVLINK_ATTR_INFO_DRIVER_NAME, nl.ZeroTerminated("ice")))
	version(nl.DEVLINK_ATTR_INFO_VERSION_FIXED, "board.id", "K65390-000")
	version(nl.DEVLINK_ATTR_INFO_VERSION_RUNNING, "fw.mgmt", "5.1.5")
	version(nl.DEVLINK_ATTR_INFO_VERSION_RUNNING, "fw.app.name", "ICE COMMS Package")
	version(nl.DEVLINK_ATTR_INFO_VERSION_STORED, "fw.app.name", "to be loaded")
	version(nl.DEVLINK_ATTR_INFO_VERSION_RUNNING, "fw.undi", "")
	return message
}

func TestParseVersions(t *testing.T) {
	got := map[string]string{}
	parseVersions(infoMessage(), got)
	if diff := cmp.Diff(map[string]string{"fw.mgmt": "5.1.5", "fw.app.name": "ICE COMMS Package", "fw.undi": ""}, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}

func FuzzParseVersions(f *testing.F) {
	f.Add(infoMessage())
	f.Add([]byte{1, 2, 3, 4, 0, 0, 101, 0})
	f.Fuzz(func(t *testing.T, message []byte) {
		parseVersions(message, map[string]string{})
		// Cut anywhere, as no kernel does.
		if len(message) > 0 {
			parseVersions(message[:len(message)-1], map[string]string{})
		}
	})
}

// On any machine: nothing sits at this address.
func TestDDPProfileOfNoFunction(t *testing.T) {
	if name, err := DDPProfile("0000:ff:1f.7"); name != "" || !errors.Is(err, ErrNoDevlink) {
		t.Errorf("got %q, %v", name, err)
	}
}
