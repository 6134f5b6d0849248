package inventory

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// An Inventory is kept up to date by Run. Get it from New.
type Inventory struct {
	root   string
	log    *slog.Logger
	rescan time.Duration
	links  Links

	changed chan struct{} // of length 1: a new look is worth it

	mu      sync.Mutex
	devices []*Device
	scanned bool
	latest  *pci.Snapshot // of which devices will be made, or were
	stats   Stats

	pending struct {
		sync.Mutex
		addresses map[pci.Address]bool
		all       bool
		wake      chan struct{} // of length 1
	}

	// What only the goroutine of Run uses.
	viewer *viewer
	known  map[int]netlinks.NodeLink
	again  int // looks in a row that did not fit together
	// retry is the one look that is due after a look that failed, and trouble what was last said about it.
	retry   *time.Timer
	trouble string
	expiry  *time.Timer // the look that is due while something is said of a device for a time only; nil: never was
}

// maxAgain ends the wait for a look that fits together. Beyond it something is wrong with the node, such as that this
// program does not run in its network namespace, and the interfaces that are not known are not offered.
const maxAgain = 20

// fewAgain is how many such looks are nothing to worry about: what the kernel says of an interface comes shortly after the
// interface itself. Then the links are all read, in case something was not heard.
const fewAgain = 3

// coalesce is how long a look waits after an event: one thing that happens makes several, over some milliseconds. VFs by the
// hundred come over seconds, and are not waited for.
const coalesce = 50 * time.Millisecond

// recheck is how long what is said of a device for a time only may be said too long: on an idle node no event would end it.
const recheck = 30 * time.Second

// Stats count what an Inventory did.
type Stats struct {
	// Looks are how often something was said to have changed, or was looked at in any case. In a look there may be a scan of
	// all functions, or a refresh of some.
	Looks, Scans, Refreshes int
	Lost                    int           // how often the kernel began or ceased to drop events
	LastScan                time.Duration // how long it took
}

// Options change what New makes; the zero value is right for a node.
type Options struct {
	// Rescan is the time between two scans that no event asked for; default 5 min.
	Rescan time.Duration
	// Links says what interfaces mean to the node; default: netlinks.Links.
	Links Links
}

// Links follows interfaces; see netlinks.Links.
type Links interface {
	Watch(ctx context.Context, changed func()) error
	Update(all bool) (links map[int]netlinks.NodeLink, changed []int, err error)
}

// New makes an inventory of what is below root. It has nothing until Run has scanned.
func New(root string, log *slog.Logger, o Options) *Inventory {
	i := &Inventory{root: root, log: log, rescan: o.Rescan, links: o.Links, changed: make(chan struct{}, 1), viewer: newViewer()}
	if i.rescan == 0 {
		i.rescan = 5 * time.Minute
	}
	if i.links == nil {
		i.links = &netlinks.Links{}
	}
	i.pending.addresses = map[pci.Address]bool{}
	i.pending.wake = make(chan struct{}, 1)
	return i
}

// Changed receives after each change. Devices then has the new ones.
func (i *Inventory) Changed() <-chan struct{} { return i.changed }

// Devices is what there was at the last look, and false before the first. Change nothing in it.
func (i *Inventory) Devices() ([]*Device, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.devices, i.scanned
}

func (i *Inventory) snapshot() *pci.Snapshot {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.latest
}

// Stats is what was done so far.
func (i *Inventory) Stats() Stats {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stats
}

// Run follows the node until ctx ends.
func (i *Inventory) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		i.keep(ctx, "the kernel's events", func() error { return pci.Watch(ctx, i.lookAtAll, i.event) })
	})
	wg.Go(func() {
		i.keep(ctx, "changes of links", func() error { return i.links.Watch(ctx, i.wake) })
	})
	i.lookAtAll()
	ticker := time.NewTicker(i.rescan)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			i.lookAtAll()
		case <-i.pending.wake:
			if !pause(ctx, coalesce) {
				return
			}
			i.look()
		}
	}
}

// keep starts watch again whenever it breaks. Meanwhile everything is looked at every second.
func (i *Inventory) keep(ctx context.Context, what string, watch func() error) {
	for {
		if err := watch(); err != nil {
			i.log.Warn("watch broke, start it again", "watch", what, "err", err)
		}
		if !pause(ctx, time.Second) {
			return
		}
		i.lookAtAll()
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (i *Inventory) event(c pci.Change) {
	i.log.Debug("event", "action", c.Action, "subsystem", c.Subsystem, "device", c.Address, "lost", c.Lost)
	if c.Lost {
		i.mu.Lock()
		i.stats.Lost++
		i.mu.Unlock()
		i.lookAtAll()
		return
	}
	snapshot := i.snapshot()
	i.pending.Lock()
	defer i.pending.Unlock()
	i.pending.addresses[c.Address] = true
	// A VF that comes or goes changes its PF, too. Which that is, only a scan finds of one that comes, and of one that a look
	// met on its way out: the kernel parts a VF and its PF, unbinds its driver, and only then says that it removes the VF.
	if c.Subsystem == "pci" && (c.Action == "add" || c.Action == "remove") {
		if d := deviceIn(snapshot, c.Address); d != nil && d.IsVF() {
			i.pending.addresses[d.PF] = true
		} else {
			i.pending.all = true
		}
	}
	i.wake()
}

func deviceIn(s *pci.Snapshot, a pci.Address) *pci.Device {
	if s == nil {
		return nil
	}
	return s.Device(a)
}

func (i *Inventory) wake() {
	select {
	case i.pending.wake <- struct{}{}:
	default:
	}
}

func (i *Inventory) lookAtAll() {
	i.pending.Lock()
	defer i.pending.Unlock()
	i.pending.all = true
	i.wake()
}

// look reads again what may have changed. What cannot be read stays as it was, and the next look tries again.
func (i *Inventory) look() {
	i.pending.Lock()
	addresses, all := i.pending.addresses, i.pending.all
	i.pending.addresses, i.pending.all = map[pci.Address]bool{}, false
	i.pending.Unlock()
	i.count(func(st *Stats) { st.Looks++ })

	snapshot, err := i.scan(i.snapshot(), addresses, all)
	if err == nil {
		err = i.readLinks(all || i.again > fewAgain)
	}
	if err != nil {
		i.tryAgain(err)
		return
	}
	i.trouble = ""
	devices, odd := i.viewer.view(snapshot, i.known)
	if len(odd) > 0 && i.again < maxAgain {
		// They are on their way somewhere. Where is found out before anybody is told: else a VF on its way into a pod or
		// back would leave its pool for a moment.
		i.again++
		i.lookAgain(snapshot, odd)
		return
	}
	i.again = 0
	i.viewer.settle()
	i.lookWhenDue()
	i.mu.Lock()
	same := i.scanned && slices.Equal(devices, i.devices)
	i.devices, i.latest, i.scanned = devices, snapshot, true
	i.mu.Unlock()
	if same {
		return
	}
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// tryAgain asks for another look in a while: for one, however many events there are meanwhile.
func (i *Inventory) tryAgain(err error) {
	if i.trouble != err.Error() {
		i.trouble = err.Error()
		i.log.Warn("look at the node's devices; try again every second", "err", err)
	}
	if i.retry == nil {
		i.retry = time.AfterFunc(time.Second, i.lookAtAll)
		return
	}
	i.retry.Reset(time.Second)
}

// lookWhenDue asks for a look at what is said for a time only, and at nothing else.
func (i *Inventory) lookWhenDue() {
	switch due := i.viewer.hasProvisional(); {
	case due && i.expiry == nil:
		i.expiry = time.AfterFunc(recheck, i.wake)
	case due:
		i.expiry.Reset(recheck)
	case i.expiry != nil:
		i.expiry.Stop()
	}
}

// lookAgain asks for another look at the functions that were odd.
func (i *Inventory) lookAgain(snapshot *pci.Snapshot, odd []pci.Address) {
	i.mu.Lock()
	i.latest = snapshot
	i.mu.Unlock()
	i.pending.Lock()
	defer i.pending.Unlock()
	for _, a := range odd {
		i.pending.addresses[a] = true
	}
	i.wake()
}

func (i *Inventory) readLinks(all bool) error {
	links, changed, err := i.links.Update(all)
	if err != nil {
		return err
	}
	i.known = links
	i.viewer.touch(changed...)
	i.lookAtPorts(changed)
	return nil
}

// lookAtPorts asks for another look at the functions whose InfiniBand interfaces changed. The kernel has no event for a partition
// key that the subnet manager sets, but the interface goes up with it, or down and up.
func (i *Inventory) lookAtPorts(changed []int) {
	snapshot := i.snapshot()
	i.pending.Lock()
	defer i.pending.Unlock()
	for _, index := range changed {
		a, known := i.viewer.owners[index]
		if !known {
			continue
		}
		if d := deviceIn(snapshot, a); d != nil && linkType(d.Netdevs) == "infiniband" {
			i.pending.addresses[a] = true
			i.wake()
		}
	}
}

// fewAddresses is where reading everything is no more work than reading them one by one.
const fewAddresses = 64

func (i *Inventory) scan(old *pci.Snapshot, addresses map[pci.Address]bool, all bool) (*pci.Snapshot, error) {
	if !all && old != nil && len(addresses) == 0 {
		return old, nil
	}
	started := time.Now()
	if all || old == nil || len(addresses) > fewAddresses {
		s, err := pci.Scan(i.root)
		if err != nil {
			return nil, err
		}
		i.count(func(st *Stats) { st.Scans, st.LastScan = st.Scans+1, time.Since(started) })
		return s, nil
	}
	list := make([]pci.Address, 0, len(addresses))
	for a := range addresses {
		list = append(list, a)
	}
	s, err := old.Refresh(i.root, list...)
	if err != nil {
		return nil, err
	}
	i.count(func(st *Stats) { st.Refreshes++ })
	return s, nil
}

func (i *Inventory) count(add func(*Stats)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	add(&i.stats)
}

// Once looks a single time. Without links, interfaces are taken for ones that mean nothing to the node.
func Once(root string, links func() (map[int]netlinks.NodeLink, error)) ([]*Device, error) {
	snapshot, err := pci.Scan(root)
	if err != nil {
		return nil, err
	}
	known := map[int]netlinks.NodeLink{}
	if links != nil {
		if known, err = links(); err != nil {
			return nil, err
		}
	} else {
		for _, d := range snapshot.Devices() {
			netdevs := functionNetdevs(d)
			for i := range d.Subfunctions {
				netdevs = slices.Concat(netdevs, subfunctionNetdevs(&d.Subfunctions[i]))
			}
			for _, n := range netdevs {
				known[n.Index] = netlinks.NodeLink{Name: n.Name, Up: n.Up}
			}
		}
	}
	devices, _ := newViewer().view(snapshot, known)
	return devices, nil
}
