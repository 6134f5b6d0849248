package sriov

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/takeover"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A record that cannot be read does not say whose the VF is. Nothing is guessed from it: it is kept aside for a person to
// look at, and the VF gets safe defaults, unless somebody else may have it. That is told by where its interface is.

// salvage makes a record for such a VF, to be restored.
func (d *device) salvage(owner Owner, cause error) (*Record, error) {
	path, err := d.keepAside()
	if err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	d.log.Error("the VF's record cannot be read: kept it aside, resetting the VF to safe defaults", "error", cause, "record", path)
	r := &Record{
		Boot: d.boot, Phase: Removing, Owner: owner, Identity: d.id, Salvaged: true,
		Baseline: Baseline{Settings: vf.DefaultsFor(d.pfDriver)},
	}
	if d.hasNetdev() {
		r.Baseline.Netdev = &vf.Netdev{} // it has one, of which nothing is known
	}
	return r, d.write(r)
}

// keepAside keeps what cannot be read for a person to look at: our own record, or what sriov-cni saved.
func (d *device) keepAside() (path string, err error) {
	if path, err = d.p.Theirs.SetAside(d.key()); err == nil || !errors.Is(err, takeover.ErrNotExist) {
		return path, err
	}
	return d.p.Records.Preserve(d.key())
}

// whereabouts is the namespace, other than the host's, that the VF's interface is in; empty if it is at home, or in none
// that a process or a mount leads to: then nobody uses it, and only a socket may still hold it. With an error and no path
// it may be where it was not possible to look.
func (d *device) whereabouts() (string, error) {
	paths, err := netns.Others(d.p.Root)
	errs := []error{err}
	for _, path := range paths {
		isIn, err := d.isIn(path)
		if isIn {
			return path, nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return "", coded(types.ErrTryAgainLater, fmt.Errorf("look for the interface of VF %s: %w", d.key(), err))
	}
	return "", nil
}

func (d *device) isIn(path string) (bool, error) {
	_, err := d.findIn(path)
	if errors.Is(err, netns.ErrGone) || errors.Is(err, vf.ErrNoDevice) {
		return false, nil
	}
	return err == nil, err
}

// findIn is the VF's interface in the namespace at path. Errors wrap netns.ErrGone, vf.ErrNoDevice or are the kernel's own.
func (d *device) findIn(path string) (vf.Netdev, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return vf.Netdev{}, err
	}
	defer ns.Close()
	conn, err := vf.NewConn(ns)
	if err != nil {
		return vf.Netdev{}, err
	}
	return conn.Find(d.key())
}

// elsewhere is the living namespace that the VF's interface is in, if that is neither the host's nor own, a path.
func (d *device) elsewhere(own string) (string, error) {
	if _, ok := d.atHome(); ok {
		return "", nil
	}
	if isIn, _ := d.isIn(own); isIn { // if that cannot be told, whereabouts looks there, too
		return "", nil
	}
	return d.whereabouts()
}
