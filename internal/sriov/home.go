package sriov

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// errAway means that the VF's interface is neither in the host's network namespace nor in one that we know of.
var errAway = errors.New("the VF's interface did not come back")

// bringHome moves the VF's interface from a pod to the host, under its old name. It is no error if it is at home, or
// nowhere to be found. The pod may have moved it on, into a namespace of its own: then it is looked for.
func (d *device) bringHome(r *Record, paths []string) error {
	if r.Baseline.Netdev == nil {
		return nil
	}
	if _, ok := d.atHome(); ok {
		return nil
	}
	var errs []error
	try := func(path string) bool {
		err := d.bringFrom(path, r.Baseline.Netdev)
		if err != nil && !errors.Is(err, netns.ErrGone) && !errors.Is(err, vf.ErrNoDevice) {
			errs = append(errs, err)
		}
		return err == nil
	}
	for _, path := range paths {
		if path != "" && try(path) {
			return nil
		}
	}
	if len(errs) == 0 {
		path, err := d.whereabouts()
		if path != "" && try(path) {
			return nil
		}
		if err != nil {
			d.log.Warn("cannot look everywhere for the VF's interface", "error", err) // await sees whether it comes
		}
	}
	return errors.Join(errs...)
}

func (d *device) bringFrom(path string, base *vf.Netdev) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	pod, err := vf.NewConn(ns)
	if err != nil {
		return err
	}
	dev, err := pod.Find(d.key())
	if err != nil {
		return err
	}
	// A name that the pod gave it may be taken on the host, and would keep it here.
	err = pod.DropAltNames(dev, base.AltNames)
	moveErr := pod.Move(dev.Index, d.host, vf.Arrival{Name: base.Name, MTU: base.MTU})
	if moveErr == nil {
		return err
	}
	if _, ok := d.atHome(); ok {
		return nil // under another name, or with another MTU: to be mended there
	}
	// Its name is taken on the host. Better home under a name of ours than in a namespace that dies.
	d.log.Warn("cannot bring the VF home under its name", "name", base.Name, "error", moveErr)
	again := pod.DropAltNames(dev, nil)
	if again = errors.Join(again, pod.Move(dev.Index, d.host, vf.Arrival{Name: d.spareName()})); again == nil {
		return nil
	}
	return errors.Join(err, moveErr, again, pod.Down(dev.Index))
}

// spareName is a name that only this VF can have: its PCI address. 15 bytes at most, as the kernel wants it.
func (d *device) spareName() string {
	return "vf" + strings.NewReplacer(":", "", ".", "").Replace(d.key())
}

// resetNetdev waits for the interface to be at home and gives it back what it had. free says that the PF lets the VF choose
// its MAC, and shows none until the VF tells it.
func (d *device) resetNetdev(ctx context.Context, r *Record, free bool) error {
	dev, err := d.await(ctx, r.Identity.Driver)
	if err != nil {
		return err
	}
	want := *r.Baseline.Netdev
	if dev.MAC != want.MAC && !free {
		// igbvf takes over a MAC that an administrator had set on the PF when it is reset, as every set down does.
		d.host.WriteEach(d.pf, d.id.Index, vf.Settings{MAC: new(vf.MAC)})
		free = true
	}
	if free && !r.Baseline.ownMAC() {
		defer d.host.WriteEach(d.pf, d.id.Index, vf.Settings{MAC: r.Baseline.Settings.MAC})
	}
	now, err := d.host.Reset(dev, want)
	if errors.Is(err, vf.ErrExists) {
		if want, err = d.yieldNames(r, now, want); err == nil {
			now, err = d.host.Reset(now, want)
		}
	}
	// Under the name that it has, even if that is not the one it should have.
	if err = errors.Join(err, vf.ResetTuning(now.Name, r.Baseline.Tuning)); err != nil {
		return err
	}
	if free && dev.MAC == want.MAC {
		// The kernel does not ask the driver for a MAC that the interface has already.
		other := want.MAC
		other[5] ^= 1
		if err = errors.Join(d.host.SetMAC(now.Index, other), d.host.SetMAC(now.Index, want.MAC)); err != nil {
			return err
		}
	}
	// Taken without an error is not yet done: igbvf ignores a MAC that the PF does not allow, and udev may rename.
	if now.Name != want.Name || now.MAC != want.MAC {
		if now, err = d.host.Reset(now, want); err != nil {
			return err
		}
	}
	if now.Name != want.Name || now.MAC != want.MAC || now.MTU != want.MTU {
		return fmt.Errorf("%w: the VF's interface is %s, MAC %v, MTU %d, and was %s, MAC %v, MTU %d before",
			vf.ErrUnsettled, now.Name, now.MAC, now.MTU, want.Name, want.MAC, want.MTU)
	}
	r.Baseline.Netdev.Index = now.Index
	return nil
}

// yieldNames takes from want the names that other interfaces on the host have by now, and puts them down as owed.
func (d *device) yieldNames(r *Record, now, want vf.Netdev) (vf.Netdev, error) {
	if now.Name != want.Name {
		taken, err := d.host.HasName(want.Name)
		if err != nil {
			return want, err
		}
		if taken {
			r.Owed.Name, want.Name = want.Name, d.spareName()
		}
	}
	var free []string
	for _, name := range want.AltNames {
		taken := false
		if !slices.Contains(now.AltNames, name) {
			var err error
			if taken, err = d.host.HasName(name); err != nil {
				return want, err
			}
		}
		if taken {
			r.Owed.AltNames = append(r.Owed.AltNames, name)
		} else {
			free = append(free, name)
		}
	}
	want.AltNames = free
	d.log.Warn("other interfaces have names of the VF's: it gets them back with its next pod, once they are free",
		"name", r.Owed.Name, "altNames", r.Owed.AltNames, "called", want.Name)
	return want, nil
}

// await waits until the interface is in the host's namespace. When a network namespace dies the kernel moves physical
// interfaces there, in its own time, and only once the last socket, process and mount of it are gone.
func (d *device) await(ctx context.Context, driver string) (vf.Netdev, error) {
	enough, cancel := context.WithTimeout(ctx, d.p.ReturnWait)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if dev, ok := d.atHome(); ok {
			return dev, nil
		}
		select {
		case <-enough.Done():
			if ctx.Err() != nil {
				return vf.Netdev{}, coded(types.ErrTryAgainLater, fmt.Errorf("%w yet: %w", errAway, context.Cause(ctx)))
			}
			d.log.Warn("the VF's interface did not come back by itself, binding its driver again", "driver", driver, "waited", d.p.ReturnWait)
			return d.rebind(driver)
		case <-time.After(wait):
		}
	}
}

// rebind takes the interface from whoever still holds its namespace: without its driver it is gone there, and with it a
// new one comes up here. It is for an owner that is no more, and changes the MAC of VFs that choose their own.
func (d *device) rebind(driver string) (vf.Netdev, error) {
	drivers := filepath.Join(d.p.Root, "sys/bus/pci/drivers")
	files := []string{filepath.Join(drivers, driver, "bind")}
	if d.vf.Driver != "" { // none, if we were killed right here before
		files = slices.Insert(files, 0, filepath.Join(drivers, d.vf.Driver, "unbind"))
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(d.key()), 0); err != nil {
			return vf.Netdev{}, coded(types.ErrTryAgainLater, fmt.Errorf("%w, and binding its driver again failed: %w", errAway, err))
		}
	}
	for deadline := time.Now().Add(d.p.RebindWait); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if dev, ok := d.atHome(); ok {
			d.vf.Driver, d.id.Driver = driver, driver
			return dev, nil
		}
	}
	return vf.Netdev{}, coded(types.ErrTryAgainLater, fmt.Errorf("%w, not even after its driver %s was bound again", errAway, driver))
}
