// Package delegate carries out a plan: it runs the CNI plugins of a sandbox's networks in order, undoes them in reverse,
// and keeps a record of each sandbox, so that whatever is killed can be finished by the next call.
//
// A record, as internal/journal keeps it in /var/lib/viaduct/pods/<container id>.json:
//
//	containerID, pod, ifName, args    what the runtime said at ADD
//	netns    {path, dev, inode}       the sandbox's network namespace, and how to tell it from a later one at that path
//	boot                              the boot that it belongs to
//	phase                             planned | adding | added | deleting
//	attachments [                     in the order of ADD: the default network, then the others
//	  name, ifName, config, capabilities, device, defaultRoute, isDefault     see network.Attachment
//	  phase                           planned: no plugin of it has run · adding: some may have · added: all have
//	                                  deleting: its DEL failed, or may not have ended · gone: torn down
//	  result                          what its last plugin answered, in the configuration's own cniVersion
//	  deviceFile, deviceInfo          its file in devinfo/cni and what was in it after ADD
//	]
//
// An attachment is on file as adding before its first plugin gets its configuration, and as added with its result when its last
// one answered. While that plugin starts, its record may yet say planned: of an ADD that was killed, the first planned one counts as
// adding, in case a plugin does something before it reads. A record disappears only when everything in it is torn down.
//
// A killed process leaves what it wrote. A power cut takes what was not synced, and what is synced when is this:
//
//   - A sandbox with nothing but the node's own default network: nothing. Its DEL needs no record to tear that network
//     down, and the plugins' own files, such as the leases of host-local, are not synced either.
//   - All others: the first record, which names all networks, before a plugin of a network other than the default one gets its
//     configuration; it is synced while the default network's plugins run. Later ones are put behind it in the file, and not
//     synced: a pod waits for the disk once, but for each megabyte of records. So there is always one that names all networks, though it may not
//     know how far they came. After a boot, or if what follows it is torn, DEL therefore takes planned for adding.
package delegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

const (
	// DefaultDir holds the records. They outlive a boot, because IPAM leases do.
	DefaultDir = "/var/lib/viaduct/pods"
	// DefaultRunDir says which plugin runs right now. Process ids mean nothing after a boot.
	DefaultRunDir = "/run/viaduct/pods"
)

// Records is the store of Record in dir.
func Records(dir string) journal.Store { return journal.Store{Dir: dir, Version: 1, Durable: true} }

// A Phase says how far a sandbox or one of its attachments has come.
type Phase string

// The phases, in order.
const (
	Planned  Phase = "planned"
	Adding   Phase = "adding"
	Added    Phase = "added"
	Deleting Phase = "deleting"
	Gone     Phase = "gone"
)

// A Record is one sandbox: what was planned for it, how far that came, and what is needed to undo it.
type Record struct {
	ContainerID string      `json:"containerID"`
	Pod         network.Pod `json:"pod"`
	IfName      string      `json:"ifName"`
	Args        string      `json:"args,omitempty"` // CNI_ARGS
	Netns       Netns       `json:"netns"`
	Boot        string      `json:"boot"`
	Phase       Phase       `json:"phase"`
	Attachments []Attached  `json:"attachments"`

	// Torn says that a newer record follows in the file, and is not whole.
	Torn bool `json:"-"`
}

// lagging reports whether a newer record may have been lost: in a power cut, or as the file says.
func (r *Record) lagging() bool { return r.Torn || r.Boot != bootID() }

// Attached is one attachment and what became of it.
type Attached struct {
	network.Attachment
	Phase      Phase           `json:"phase"`
	Result     json.RawMessage `json:"result,omitempty"`
	DeviceFile string          `json:"deviceFile,omitempty"`
	DeviceInfo json.RawMessage `json:"deviceInfo,omitempty"`
}

// nodesOwn reports whether a is the node's own default network: a definition's attachment has a namespace in its name.
func (a *Attached) nodesOwn() bool { return a.IsDefault && !strings.Contains(a.Name, "/") }

// outlivesBoot reports whether the sandbox has anything that DEL could not tear down without the record.
func (r *Record) outlivesBoot() bool {
	return slices.ContainsFunc(r.Attachments, func(a Attached) bool { return !a.nodesOwn() })
}

// HasExtra reports whether the pod has networks beside its default one.
func (r *Record) HasExtra() bool { return len(r.Attachments) > 1 }

// Read reads the record of key from the store that Records made. One that a power cut has left empty had not been synced,
// so its sandbox owes nothing that DEL needs it for: there is none, and the error wraps journal.ErrNotExist. Others are those
// of Store.Read.
func Read(records journal.Store, key string) (*Record, error) {
	var rec Record
	err := records.Read(key, &rec)
	if errors.Is(err, journal.ErrTorn) {
		rec.Torn, err = true, nil
	}
	if errors.Is(err, journal.ErrEmpty) {
		return nil, fmt.Errorf("%w of container %s: its file is empty, a power cut came before it was synced", journal.ErrNotExist, key)
	}
	if err != nil {
		return nil, err
	}
	return &rec, nil
}

// load reads the container's record. One that is not this container's, or that cannot be carried out, is corrupt: the error
// wraps journal.ErrCorrupt. Others are those of Read.
func (r *Runner) load(containerID string) (*Record, error) {
	rec, err := Read(r.Records, containerID)
	if err != nil {
		return nil, err
	}
	if err := rec.check(containerID); err != nil {
		return nil, fmt.Errorf("%w of container %s: %w", journal.ErrCorrupt, containerID, err)
	}
	if rec.Torn {
		r.Log.Warn("what follows the record was not written to its end; all networks that it names count as begun", "container", containerID)
	}
	// The next one's plugin may have been started before the ADD was killed, and have done something without a configuration.
	next := func(a Attached) bool { return a.Phase == Planned }
	if i := slices.IndexFunc(rec.Attachments, next); i >= 0 && rec.Phase == Adding {
		rec.Attachments[i].Phase = Adding
	}
	return rec, nil
}

func (r *Record) check(containerID string) error {
	if r.ContainerID != containerID {
		return fmt.Errorf("it is of container %q", r.ContainerID)
	}
	if len(r.Attachments) == 0 {
		return errors.New("it names no network")
	}
	for _, a := range r.Attachments {
		if !slices.Contains([]Phase{Planned, Adding, Added, Deleting, Gone}, a.Phase) {
			return fmt.Errorf("network %s: unknown phase %q", a.Name, a.Phase)
		}
		if bad := cni.CheckIfName(a.IfName); bad != nil {
			return fmt.Errorf("network %s: interface: %w", a.Name, bad)
		}
		if _, err := ParseChain(a.Config); err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
	}
	return nil
}

// newRecord plans sb's attachments, and returns their configurations, too. What it refuses would be refused by a plugin or the kernel later, after the first
// ones have run.
func newRecord(sb Sandbox, ns Netns, attachments []network.Attachment) (rec *Record, chains []*Chain, err error) {
	rec = &Record{
		ContainerID: sb.ContainerID, Pod: sb.Pod, IfName: sb.IfName, Args: sb.Args,
		Netns: ns, Boot: bootID(), Phase: Planned,
	}
	taken := map[string]string{}
	for _, a := range attachments {
		if a.IsDefault {
			a.IfName = sb.IfName
		}
		chain, err := ParseChain(a.Config)
		if err != nil {
			return nil, nil, fmt.Errorf("network %s: %w", a.Name, err)
		}
		if bad := cni.CheckIfName(a.IfName); bad != nil {
			return nil, nil, invalid("network %s: interface: %v", a.Name, bad)
		}
		if other, ok := taken[a.IfName]; ok {
			return nil, nil, &network.Error{
				Reason: network.InterfaceTaken, Pod: sb.Pod, Network: a.Name, Key: "interface",
				Problem: fmt.Sprintf("the interface name %s is taken by network %s", a.IfName, other),
				Remedy:  `choose another "interface", or none for net1, net2, … by position`,
			}
		}
		taken[a.IfName] = a.Name
		a.Capabilities = chain.declared(a.Capabilities)
		rec.Attachments = append(rec.Attachments, Attached{Attachment: a, Phase: Planned})
		chains = append(chains, chain)
	}
	return rec, chains, nil
}
