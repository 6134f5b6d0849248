package inventory

import (
	"fmt"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// uplinks remembers which devices carried the node's own traffic. An address and a default route are gone for a moment
// when a lease is renewed in a hurry, a switch restarts or somebody reloads the network, and to give the node's only way
// out to a pod then would be the end of the node. So an uplink stays one until another interface has carried the traffic
// for takeover without a break; while none does, it is still the node's. A device that gets another driver was taken out
// of that service on purpose and is forgotten, and so is everything at a restart.
type uplinks map[string]uplink // by device id

type uplink struct {
	why    string
	driver string
	now    bool // it carries it
	// since is when another interface took over; zero: none has.
	since time.Time
}

const takeover = 10 * time.Minute

// reserved says why a device with these interfaces is not to be offered, as reserved does, or because it is remembered.
func (u uplinks) reserved(id, driver string, netdevs []pci.Netdev, links map[int]netlinks.NodeLink, now time.Time) string {
	for _, n := range netdevs {
		if why := links[n.Index].Uplink; why != "" {
			u[id] = uplink{why: why, driver: driver, now: true}
		}
	}
	if why := reserved(netdevs, links); why != "" {
		return why
	}
	was, ok := u[id]
	if !ok {
		return ""
	}
	if driver != "" && driver != was.driver {
		delete(u, id)
		return ""
	}
	was.now = false
	switch another := carries(links); {
	case !another:
		was.since = time.Time{}
	case was.since.IsZero():
		was.since = now
	case now.Sub(was.since) >= takeover:
		delete(u, id)
		return ""
	}
	u[id] = was
	return fmt.Sprintf("it carried the node's own traffic (%s) and is not offered before another interface has done so for %d minutes",
		was.why, int(takeover.Minutes()))
}

// carries reports whether any interface carries the node's traffic.
func carries(links map[int]netlinks.NodeLink) bool {
	for _, l := range links {
		if l.Uplink != "" {
			return true
		}
	}
	return false
}
