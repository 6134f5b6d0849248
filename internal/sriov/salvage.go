package sriov

import (
	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A record that cannot be read does not say whose the VF is. Nothing is guessed from it: it is kept aside for a person to
// look at, and the VF gets safe defaults, unless somebody else may have it. That is told by where its interface is.

// salvage makes a record for such a VF, to be restored.
func (d *device) salvage(owner Owner, cause error) (*Record, error) {
	path, err := d.p.Records.Preserve(d.key())
	if err != nil {
		return nil, coded(types.ErrIOFailure, err)
	}
	d.log.Error("the VF's record cannot be read: kept it aside, resetting the VF to safe defaults", "error", cause, "record", path)
	r := &Record{
		Boot: d.boot, Phase: Removing, Owner: owner, Identity: d.id, Salvaged: true,
		Baseline: Baseline{Settings: vf.Defaults()},
	}
	if d.hasNetdev() {
		r.Baseline.Netdev = &vf.Netdev{} // it has one, of which nothing is known
	}
	return r, d.write(r)
}

// whereabouts is the namespace, other than the host's, that the VF's interface is in; empty if it is at home, or in none
// that a process or a mount leads to: then nobody uses it, and only a socket may still hold it.
func (d *device) whereabouts() string {
	paths, err := netns.Others(d.p.Root)
	if err != nil {
		d.log.Warn("cannot look for the VF's interface", "error", err)
	}
	for _, path := range paths {
		if d.isIn(path) {
			return path
		}
	}
	return ""
}

func (d *device) isIn(path string) bool {
	ns, err := netns.Open(path)
	if err != nil {
		return false // gone meanwhile
	}
	defer ns.Close()
	conn, err := vf.NewConn(ns)
	if err != nil {
		return false
	}
	_, err = conn.Find(d.key())
	return err == nil
}

// elsewhere is the living namespace that the VF's interface is in, if that is neither the host's nor own, a path.
func (d *device) elsewhere(own string) string {
	if _, ok := d.atHome(); ok || d.isIn(own) {
		return ""
	}
	return d.whereabouts()
}
