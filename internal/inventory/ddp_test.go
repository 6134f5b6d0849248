package inventory

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/pool"
)

func netDevice(id, pf, driver string) *Device {
	return &Device{Device: pool.Device{ID: id, Type: pool.NetDevice, PF: pf, Driver: driver}}
}

func TestProfiles(t *testing.T) {
	const pf, other, silent = "0000:3b:00.0", "0000:3b:00.1", "0000:3b:00.2"
	devices := []*Device{
		netDevice(pf, "", "ice"), netDevice("0000:3b:01.0", pf, "iavf"), netDevice("0000:3b:01.1", pf, "vfio-pci"),
		netDevice(other, "", "ice"), netDevice(silent, "", "e1000e"), netDevice("0000:3b:00.3", "", ""),
		{Device: pool.Device{ID: "0000:05:00.0", Type: pool.Accelerator, Driver: "vfio-pci"}},
	}
	var asked []string
	busy := map[string]bool{other: true}
	p := Profiles{Ask: func(address string) (string, error) {
		asked = append(asked, address)
		switch {
		case busy[address]:
			return "", errors.New("firmware is busy")
		case address == pf:
			return "ICE COMMS Package", nil
		}
		return "", nil
	}}
	fill := func(what string, wantAsked []string) {
		t.Helper()
		asked = nil
		got := map[string]string{}
		for _, d := range p.Fill(devices) {
			if d.DDPProfile != "" {
				got[d.ID] = d.DDPProfile
			}
		}
		want := map[string]string{pf: "ICE COMMS Package", "0000:3b:01.0": "ICE COMMS Package", "0000:3b:01.1": "ICE COMMS Package"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: profiles (-want +got):\n%s", what, diff)
		}
		if diff := cmp.Diff(wantAsked, asked); diff != "" {
			t.Errorf("%s: asked about (-want +got):\n%s", what, diff)
		}
	}
	fill("at first", []string{pf, other, silent})
	fill("again", []string{other})
	busy[other] = false
	fill("with an answer", []string{other})
	fill("with all answers", nil)
	devices[0] = netDevice(pf, "", "ice_next") // another driver may have loaded another package
	fill("another driver", []string{pf})
	for address, known := range p.known {
		known.asked = known.asked.Add(-2 * maxProfileAge)
		p.known[address] = known
	}
	busy[pf] = true
	fill("later, without an answer", []string{pf, other, silent})
	fill("still without", []string{pf})
	if devices[0].DDPProfile != "" {
		t.Error("a device that others look at was changed")
	}
}
