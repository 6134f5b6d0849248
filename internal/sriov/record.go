package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A Phase says what may have happened to a VF.
type Phase string

// Adding, Attached and Removing are open: a VF may differ from its baseline. Free is closed: the VF was seen to be as its
// baseline says, and nobody of ours has it.
const (
	Adding   Phase = "adding"
	Attached Phase = "attached"
	Removing Phase = "removing"
	Free     Phase = "free"
)

// An Owner is one attachment: the only one whose DEL touches the VF.
type Owner struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	Network     string `json:"network"`
}

func (o Owner) is(containerID, ifName string) bool {
	return o.ContainerID == containerID && o.IfName == ifName
}

func (o Owner) String() string {
	return fmt.Sprintf("interface %s of container %s on network %q", o.IfName, o.ContainerID, o.Network)
}

// A Record is what is known of one VF that we changed, or will: written before the first change, so that whoever comes
// after a kill can undo it. One file per VF, /run/viaduct/vf/<PCI address>.json (see package journal):
//
//	boot       the boot it was written in: VF state dies with the boot
//	phase      adding → attached → removing → free
//	owner      whose the VF is
//	netns      where its interface went, path and identity
//	identity   which VF this is; if it changed, it is another VF at the same address
//	baseline   what it is to be put back to: settings on the PF; netdev, nil for a VF that has none (vfio)
//	wanted     what the attachment set
//	invocation the owner's configuration, CNI_ARGS, CNI_PATH, to release its IPAM lease for it
//	owed       what is left of earlier owners, and does not keep the VF from the next one
type Record struct {
	Boot       string      `json:"boot"`
	Phase      Phase       `json:"phase"`
	Owner      Owner       `json:"owner,omitzero"`
	Netns      Place       `json:"netns,omitzero"`
	Identity   Identity    `json:"identity"`
	Baseline   Baseline    `json:"baseline"`
	Wanted     vf.Settings `json:"wanted,omitzero"`
	Invocation *Invocation `json:"invocation,omitempty"`
	Owed       Owed        `json:"owed,omitzero"`
	// Salvaged is for a baseline that is not known: the record was made up for one that cannot be read, and asks for safe
	// defaults and a new interface; a free one is there for what it owes alone.
	Salvaged bool     `json:"salvaged,omitempty"`
	Faults   []string `json:"faults,omitempty"` // what the last try to put it back could not do
}

// A Place is a network namespace as we met it.
type Place struct {
	Path string   `json:"path"`
	ID   netns.ID `json:"id"`
}

// An Identity tells a VF from another one that has its PCI address.
type Identity struct {
	PF     pci.Address `json:"pf"`
	Index  int         `json:"index"`
	Driver string      `json:"driver"`
	NumVFs int         `json:"numVFs"`
	// Node is the inode of the VF's folder in sysfs, which never gives a number out twice: a VF that was taken away and made
	// again, with its PF or by numvfs, has another one.
	Node uint64 `json:"node"`
}

// isOf reports whether it is the same VF, whatever driver it has, and however many its PF had then: they are made one after the
// other, which takes seconds where there are many, and the first ones are in pods before the last ones are there.
func (i Identity) isOf(other Identity) bool {
	i.Driver, i.NumVFs = other.Driver, other.NumVFs
	return i == other
}

// A Baseline is a VF before we changed it.
type Baseline struct {
	Settings vf.Settings `json:"settings"`
	Netdev   *vf.Netdev  `json:"netdev,omitempty"`
	Tuning   vf.Tuning   `json:"tuning,omitzero"`
}

// ownMAC reports whether the PF showed the MAC that the VF had chosen itself. igb does so while no MAC is set on the PF,
// and then the MAC must not be set there either, or the VF could not choose another.
func (b Baseline) ownMAC() bool {
	return b.Netdev != nil && b.Settings.MAC != nil && *b.Settings.MAC == b.Netdev.MAC
}

// An Invocation is how the runtime called us.
type Invocation struct {
	Config json.RawMessage `json:"config"`
	Args   string          `json:"args,omitempty"`
	Path   string          `json:"path,omitempty"`
}

// RecordVersion is the version of Record's format.
const RecordVersion = 1

// DefaultRecords is where the records are on a node. They have to survive a kill and not the machine: a VF's settings die
// with the boot, and a record of another boot is dropped. So nothing waits for a disk, wherever the folder is.
func DefaultRecords(dir string) journal.Store {
	return journal.Store{Dir: dir, Version: RecordVersion}
}

// check finds records that decode and still cannot be: what a person or another program wrote.
func (r *Record) check() error {
	switch r.Phase {
	case Adding, Attached, Removing, Free:
	default:
		return fmt.Errorf("%w: phase %q", journal.ErrCorrupt, r.Phase)
	}
	if r.Boot == "" {
		return fmt.Errorf("%w: no boot id", journal.ErrCorrupt)
	}
	if r.Phase != Free && !r.Salvaged && (r.Owner.ContainerID == "" || r.Owner.IfName == "") {
		return fmt.Errorf("%w: no owner", journal.ErrCorrupt)
	}
	return nil
}

func readRecord(s journal.Store, key string) (*Record, error) {
	r := &Record{}
	err := s.Read(key, r)
	if errors.Is(err, journal.ErrVersion) {
		return nil, fmt.Errorf("%w: another version of this program has the VF in its care: let that one finish, or reset the VF to safe defaults with: vfctl restore --force %s", err, key)
	}
	if err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("record of %s: %w", key, err)
	}
	return r, nil
}

// load reads the VF's record. One of another boot, or of another VF that had this address, speaks of nothing that is still
// there: the addresses that its owner had are released, and then it is dropped, but for what it owes. Errors wrap the
// journal's; ErrNotExist means that nothing is known of the VF.
func (d *device) load(ctx context.Context) (*Record, error) {
	r, err := readRecord(d.p.Records, d.key())
	if errors.Is(err, journal.ErrNotExist) || err == nil && r.Phase == Free {
		if adopted, fault := d.adopt(ctx, r); adopted != nil || fault != nil {
			return adopted, fault
		}
	}
	switch {
	case errors.Is(err, journal.ErrCorrupt):
		return nil, err // what that means is the caller's to say
	case err != nil:
		return nil, coded(types.ErrIOFailure, err)
	case r.Boot != d.boot:
		d.log.Info("the VF's record is from before a reboot: dropped", "owner", r.Owner.String())
	case !r.Identity.isOf(d.id):
		d.log.Warn("the VF's record is of another VF that had its address: dropped", "then", r.Identity, "now", d.id)
	default:
		return r, nil
	}
	r.Owed = Owed{Leases: r.Owed.Leases} // what it was called and how fast it was is over
	if r.Invocation != nil && !r.Owed.add(r.lease()) {
		d.log.Error("the VF owes more leases than a record holds: one is forgotten", "owner", r.Owner.String())
	}
	if err := d.p.pay(ctx, d.log, d.key(), r); err != nil {
		d.log.Error("addresses of earlier owners of the VF are still taken", "error", err)
	}
	if err := d.forget(r); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: it was dropped", journal.ErrNotExist)
}

func bootID(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", errors.New("read the boot id: it is empty")
	}
	return id, nil
}
