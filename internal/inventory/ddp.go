package inventory

import (
	"log/slog"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// Profiles knows the DDP profiles of functions. To ask takes the NIC's firmware some milliseconds, so an answer is kept
// for as long as the function has its driver, and for maxProfileAge at most: some drivers load a package with no event.
// The zero value is ready.
type Profiles struct {
	// Ask gives the profile of the function at a PCI address; nil: netlinks.DDPProfile.
	Ask func(address string) (string, error)
	Log *slog.Logger // nil: nobody hears of a question that failed

	known map[string]profile // by address
}

type profile struct {
	name, driver string
	asked        time.Time // zero: in vain
}

const maxProfileAge = 5 * time.Minute

// Fill gives the devices with their profiles; those that were handed in are not changed. A VF has its PF's.
func (p *Profiles) Fill(devices []*Device) []*Device {
	drivers := make(map[string]string, len(devices))
	for _, d := range devices {
		drivers[d.ID] = d.Driver
	}
	old := p.known
	p.known = make(map[string]profile, len(old))
	filled := make([]*Device, len(devices))
	for i, d := range devices {
		filled[i] = d
		if d.Type != pool.NetDevice {
			continue
		}
		address := d.ID
		if d.PF != "" {
			address = d.PF
		}
		if name := p.profile(address, drivers[address], old); name != "" {
			with := *d
			with.DDPProfile = name
			filled[i] = &with
		}
	}
	return filled
}

func (p *Profiles) profile(address, driver string, old map[string]profile) string {
	now, ok := p.known[address]
	if ok {
		return now.name
	}
	if now, ok = old[address]; !ok || now.driver != driver || time.Since(now.asked) > maxProfileAge {
		now = p.ask(address, driver, now, ok)
	}
	p.known[address] = now
	return now.name
}

// ask leaves things as they were while there is no answer, and will be asked again at the next look.
func (p *Profiles) ask(address, driver string, was profile, known bool) profile {
	now := profile{driver: driver, asked: time.Now()}
	if driver == "" {
		return now // nobody could answer
	}
	ask := p.Ask
	if ask == nil {
		ask = netlinks.DDPProfile
	}
	name, err := ask(address)
	if err == nil {
		now.name = name
		return now
	}
	if repeated := known && was.asked.IsZero(); p.Log != nil && !repeated {
		p.Log.Warn("the DDP profile of a function is not known; ask again later", "device", address, "err", err)
	}
	now.asked = time.Time{}
	if was.driver == driver {
		now.name = was.name
	}
	return now
}
