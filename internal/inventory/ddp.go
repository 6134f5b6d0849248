package inventory

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// Profiles knows the DDP profiles of functions. To ask takes the NIC's firmware some milliseconds, and minutes while it is
// flashed: so each question has a goroutine of its own, and the last answer serves until there is another. It is kept for as
// long as the function has its driver, and asked for again after maxProfileAge: some drivers load a package with no event.
// The zero value is ready.
type Profiles struct {
	// Ask gives the profile of the function at a PCI address, or netlinks.ErrNoDevlink; nil: netlinks.DDPProfile.
	Ask func(address string) (string, error)
	// Patience is how long Fill waits for the first answer about a function and its driver; default 1 s. A device whose
	// profile is not known yet may go to a later pool than it should.
	Patience time.Duration
	Log      *slog.Logger // nil: nobody hears of a question that failed

	mu    sync.Mutex
	known map[string]*profile // by address

	devices, filled []*Device // of the last Fill
}

// A profile is what is known of one function with one driver.
type profile struct {
	name, driver string
	asked        time.Time     // when there was an answer, or none
	failed       bool          // there was none the last time
	pending      chan struct{} // closed when the question that is open ends; nil: none is open
}

const (
	maxProfileAge = 5 * time.Minute
	// profilePause is the time between two questions to a function that gave no answer.
	profilePause = 10 * time.Second
)

// Fill gives the devices with their profiles; those that were handed in are not changed. A VF has its PF's. What is as it was at
// the last Fill is the same *Device.
func (p *Profiles) Fill(devices []*Device) []*Device {
	drivers := make(map[string]string, len(devices))
	for _, d := range devices {
		drivers[d.ID] = d.Driver
	}
	p.wait(p.ask(devices, drivers))
	p.mu.Lock()
	defer p.mu.Unlock()
	filled := make([]*Device, len(devices))
	for i, d := range devices {
		filled[i] = d
		known := p.known[asksAbout(d)]
		switch {
		case d.Type != pool.NetDevice || known == nil || known.name == "":
		case i < len(p.devices) && p.devices[i] == d && p.filled[i].DDPProfile == known.name:
			filled[i] = p.filled[i]
		default:
			with := *d
			with.DDPProfile = known.name
			filled[i] = &with
		}
	}
	p.devices, p.filled = devices, filled
	return filled
}

// asksAbout is the function whose firmware serves the device.
func asksAbout(d *Device) string {
	if d.PF != "" {
		return d.PF
	}
	return d.ID
}

// ask forgets functions that are gone, starts the questions that are due, and gives those of functions of which nothing is
// known yet.
func (p *Profiles) ask(devices []*Device, drivers map[string]string) (first []<-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.known
	p.known = make(map[string]*profile, len(old))
	for _, d := range devices {
		address := asksAbout(d)
		driver := drivers[address]
		if d.Type != pool.NetDevice || driver == "" || p.known[address] != nil {
			continue // without a driver nobody could answer
		}
		known := old[address]
		if known == nil || known.driver != driver {
			known = &profile{driver: driver}
		}
		p.known[address] = known
		if known.pending != nil || !known.due(time.Now()) {
			continue
		}
		known.pending = make(chan struct{})
		if known.asked.IsZero() {
			first = append(first, known.pending)
		}
		go p.answer(address, known)
	}
	return first
}

func (k *profile) due(now time.Time) bool {
	age := maxProfileAge
	if k.failed {
		age = profilePause
	}
	return now.Sub(k.asked) > age
}

// answer asks, and leaves what is known as it was when there is no answer.
func (p *Profiles) answer(address string, known *profile) {
	ask := p.Ask
	if ask == nil {
		ask = netlinks.DDPProfile
	}
	name, err := ask(address)
	p.mu.Lock()
	defer p.mu.Unlock()
	// A driver that reloads itself is off devlink for a moment, and many never are on it: nothing to warn of.
	if err != nil && !known.failed && !errors.Is(err, netlinks.ErrNoDevlink) && p.Log != nil {
		p.Log.Warn("the DDP profile of a function is not known; ask again later", "device", address, "err", err)
	}
	if known.failed = err != nil; !known.failed {
		known.name = name
	}
	known.asked = time.Now()
	close(known.pending)
	known.pending = nil
}

func (p *Profiles) wait(questions []<-chan struct{}) {
	patience := p.Patience
	if patience == 0 {
		patience = time.Second
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for _, answered := range questions {
		select {
		case <-answered:
		case <-timeout.C:
			return
		}
	}
}
