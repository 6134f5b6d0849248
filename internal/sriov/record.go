package sriov

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
//	pf, index, driver, numVFs
//	           which VF this is; if they changed, it is another VF at the same address
//	baseline   what it is to be put back to: settings on the PF; netdev, nil for a VF that has none (vfio)
//	wanted     what the attachment set
//	invocation the owner's configuration, CNI_ARGS, CNI_PATH, to release its IPAM lease for it
type Record struct {
	Boot       string      `json:"boot"`
	Phase      Phase       `json:"phase"`
	Owner      Owner       `json:"owner,omitzero"`
	Netns      Place       `json:"netns,omitzero"`
	Identity   Identity    `json:"identity"`
	Baseline   Baseline    `json:"baseline"`
	Wanted     vf.Settings `json:"wanted,omitzero"`
	Invocation *Invocation `json:"invocation,omitempty"`
	Salvaged   bool        `json:"salvaged,omitempty"` // made up after a corrupt record: the baseline is safe defaults
	Faults     []string    `json:"faults,omitempty"`   // what the last try to put it back could not do
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

// DefaultRecords is where the records are on a node.
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
	if r.Phase != Free && (r.Owner.ContainerID == "" || r.Owner.IfName == "") {
		return fmt.Errorf("%w: no owner", journal.ErrCorrupt)
	}
	return nil
}

func readRecord(s journal.Store, key string) (*Record, error) {
	r := &Record{}
	if err := s.Read(key, r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("record of %s: %w", key, err)
	}
	return r, nil
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
