package inventory

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/internal/pool"
)

func netDevice(id, pf, driver string) *Device {
	return &Device{Device: pool.Device{ID: id, Type: pool.NetDevice, PF: pf, Driver: driver}}
}

// A firmware answers about functions, and notes who asked.
type firmware struct {
	mu    sync.Mutex
	asked []string
	names map[string]string
	errs  map[string]error
	flash chan struct{} // nil, or closed when the firmware has been flashed
}

func (f *firmware) ask(address string) (string, error) {
	f.mu.Lock()
	f.asked = append(f.asked, address)
	flash := f.flash
	f.mu.Unlock()
	if flash != nil {
		<-flash
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names[address], f.errs[address]
}

// profiles fills the devices in, lets all questions end that can, and gives the profiles by id, and whom it asked.
func (f *firmware) profiles(p *Profiles, devices []*Device) (profiles map[string]string, asked []string) {
	f.asked = nil
	profiles = map[string]string{}
	for _, d := range p.Fill(devices) {
		if d.DDPProfile != "" {
			profiles[d.ID] = d.DDPProfile
		}
	}
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return profiles, slices.Sorted(slices.Values(f.asked))
}

const pf0, pf1, pf2, pf0VF0, pf0VF1 = "0000:3b:00.0", "0000:3b:00.1", "0000:3b:00.2", "0000:3b:01.0", "0000:3b:01.1"

func TestProfiles(t *testing.T) {
	devices := []*Device{
		netDevice(pf0, "", "ice"), netDevice(pf0VF0, pf0, "iavf"), netDevice(pf0VF1, pf0, "vfio-pci"),
		netDevice(pf1, "", "ice"), netDevice(pf2, "", "e1000e"), netDevice("0000:3b:00.3", "", ""),
		{Device: pool.Device{ID: "0000:05:00.0", Type: pool.Accelerator, Driver: "vfio-pci"}},
	}
	f := &firmware{
		names: map[string]string{pf0: "ICE COMMS Package"},
		errs:  map[string]error{pf1: errors.New("firmware is busy"), pf2: netlinks.ErrNoDevlink},
	}
	p := &Profiles{Ask: f.ask}
	steps := []struct {
		what    string
		do      func()
		asked   []string
		unknown bool
	}{
		{what: "at first", asked: []string{pf0, pf1, pf2}},
		{what: "again"},
		{what: "a little later", do: func() { time.Sleep(profilePause + 1) }, asked: []string{pf1, pf2}},
		{what: "with an answer", do: func() { time.Sleep(profilePause + 1); delete(f.errs, pf1) }, asked: []string{pf1, pf2}},
		{what: "with that answer", do: func() { time.Sleep(profilePause + 1) }, asked: []string{pf2}},
		{what: "another driver, which may load another package", do: func() { devices[0] = netDevice(pf0, "", "ice_next") }, asked: []string{pf0}},
		{
			what: "later, off devlink, as a driver that reloads itself is", asked: []string{pf0, pf1, pf2},
			do: func() { time.Sleep(maxProfileAge + 1); f.errs[pf0] = netlinks.ErrNoDevlink },
		},
		{what: "still off devlink", do: func() { time.Sleep(profilePause + 1) }, asked: []string{pf0, pf2}},
		{what: "off devlink with another driver", do: func() { devices[0] = netDevice(pf0, "", "ice") }, asked: []string{pf0}, unknown: true},
	}
	synctest.Test(t, func(t *testing.T) {
		for _, s := range steps {
			if s.do != nil {
				s.do()
			}
			want := map[string]string{pf0: "ICE COMMS Package", pf0VF0: "ICE COMMS Package", pf0VF1: "ICE COMMS Package"}
			if s.unknown {
				want = map[string]string{}
			}
			profiles, asked := f.profiles(p, devices)
			if diff := cmp.Diff(want, profiles); diff != "" {
				t.Errorf("%s: profiles (-want +got):\n%s", s.what, diff)
			}
			if diff := cmp.Diff(s.asked, asked); diff != "" {
				t.Errorf("%s: asked about (-want +got):\n%s", s.what, diff)
			}
		}
	})
	if devices[0].DDPProfile != "" {
		t.Error("a device that others look at was changed")
	}
}

// A question to a firmware that is being flashed takes minutes: nobody waits for it twice, nor for one that has an answer.
func TestProfilesWhileFirmwareIsFlashed(t *testing.T) {
	devices := []*Device{netDevice(pf0, "", "ice"), netDevice(pf1, "", "ice")}
	synctest.Test(t, func(t *testing.T) {
		f := &firmware{names: map[string]string{pf0: "COMMS", pf1: "COMMS"}}
		p := &Profiles{Ask: f.ask}
		step := func(what string, profiles map[string]string, asked []string, most time.Duration) {
			t.Helper()
			started := time.Now()
			gotProfiles, gotAsked := f.profiles(p, devices)
			if diff := cmp.Diff(profiles, gotProfiles); diff != "" {
				t.Errorf("%s: profiles (-want +got):\n%s", what, diff)
			}
			if diff := cmp.Diff(asked, gotAsked); diff != "" {
				t.Errorf("%s: asked about (-want +got):\n%s", what, diff)
			}
			if took := time.Since(started); took > most {
				t.Errorf("%s: it took %s", what, took)
			}
		}
		both := map[string]string{pf0: "COMMS", pf1: "COMMS"}
		step("at first", both, []string{pf0, pf1}, 0)
		f.flash = make(chan struct{})
		time.Sleep(maxProfileAge + 1)
		step("when it is time to ask again", both, []string{pf0, pf1}, 0)
		time.Sleep(maxProfileAge + 1)
		step("while that is not answered", both, nil, 0)
		f.names[pf0] = "WIRELESS"
		close(f.flash)
		synctest.Wait()
		f.flash = nil
		step("when it was answered", map[string]string{pf0: "WIRELESS", pf1: "COMMS"}, nil, 0)

		p = &Profiles{Ask: f.ask} // a restart
		f.flash = make(chan struct{})
		step("at first, with no answer", map[string]string{}, []string{pf0, pf1}, time.Second)
		step("with no answer yet", map[string]string{}, nil, 0)
		close(f.flash)
	})
}
