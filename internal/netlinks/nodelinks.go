package netlinks

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A NodeLink is what a network interface means to the node it is on.
type NodeLink struct {
	Name     string
	AltNames []string
	// Uplink says why the interface carries the node's own traffic: a default route goes through it, or through
	// something on top of it. Empty: it does not.
	Uplink string
	// Addressed says which address other than a link-local one it has, or what is on top of it. Empty: none.
	Addressed string
	Up        bool // has carrier and is up
}

func (l NodeLink) equal(o NodeLink) bool {
	return l.Name == o.Name && l.Uplink == o.Uplink && l.Addressed == o.Addressed && l.Up == o.Up && slices.Equal(l.AltNames, o.AltNames)
}

// NodeLinks reads the interfaces of the calling thread's network namespace, by interface index.
func NodeLinks() (map[int]NodeLink, error) {
	links, _, err := new(Links).Update(true)
	return links, err
}

// Links knows the interfaces of a network namespace by what the kernel says of each change: where there are thousands, one that
// moves into a pod is the work of one. The zero value is ready. Watch collects what is said, and Update, which is for one
// goroutine, takes it in; without a Watch, each Update reads everything.
type Links struct {
	graph *graph           // nil: nothing was read yet
	known map[int]NodeLink // what the last Update gave
	// touched are the interfaces of which known may say something else than graph.
	touched map[int]bool

	buffer int // bytes that the kernel may keep for Watch; 0: linkBuffer

	mu       sync.Mutex
	news     news
	watching bool
}

// news is what was said since the last Update.
type news struct {
	links             map[int]*iface // as they are now; nil: gone
	addresses, routes bool           // some changed
	all               bool           // something was not heard
}

// Update gives the interfaces as they are now, by index, and those that changed since the last Update, be they gone. With all,
// everything is read, and what the kernel said nothing about is found, too. The map holds until the next Update. After an
// error, the next one reads everything.
func (l *Links) Update(all bool) (links map[int]NodeLink, changed []int, err error) {
	l.mu.Lock()
	said := l.news
	l.news = news{}
	all = all || said.all || !l.watching || l.graph == nil
	l.mu.Unlock()
	if l.touched == nil {
		l.known, l.touched = map[int]NodeLink{}, map[int]bool{}
	}
	if all {
		err = l.readAll()
	} else {
		err = l.hear(said)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.news.all = true
		return nil, nil, err
	}
	return l.known, l.settle(), nil
}

func (l *Links) readAll() error {
	g := newGraph()
	if err := dumpLinks(g.set); err != nil {
		return fmt.Errorf("list the node's interfaces: %w", err)
	}
	if err := g.readRoutes(); err != nil {
		return fmt.Errorf("list the node's routes: %w", err)
	}
	if err := g.readAddresses(); err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	g.marks = g.mark()
	for index := range l.known {
		l.touched[index] = true
	}
	for index := range g.links {
		l.touched[index] = true
	}
	l.graph = g
	return nil
}

// hear takes in what the kernel said. It says nothing of an IPv4 route that goes because its interface goes down or loses an
// address, or because its source address goes.
func (l *Links) hear(said news) error {
	g := l.graph
	var moved, relatives []int
	for index, now := range said.links {
		if was := g.links[index]; (was == nil) != (now == nil) {
			moved = append(moved, index)
		}
		g.set(index, now)
		l.touched[index] = true
		said.routes = said.routes || slices.ContainsFunc(g.routes, func(r root) bool { return r.index == index })
	}
	// A veth whose peer is made, or moves to another namespace or back, has another parent then, and the kernel does not say
	// so. Several may have come at once: who their relatives are shows when all are in.
	for _, index := range moved {
		relatives = append(relatives, g.relatives(index)...)
	}
	for _, index := range relatives {
		err := getLink(index, g.set)
		if err != nil && !errors.Is(err, unix.ENODEV) { // it is gone: that is said, too
			return fmt.Errorf("read interface %d anew: %w", index, err)
		}
		l.touched[index] = true
	}
	if said.routes {
		if err := g.readRoutes(); err != nil {
			return fmt.Errorf("list the node's routes: %w", err)
		}
	}
	if said.addresses {
		if err := g.readAddresses(); err != nil {
			return fmt.Errorf("list the node's addresses: %w", err)
		}
	}
	was := g.marks
	g.marks = g.mark()
	for index := range was {
		l.touched[index] = true
	}
	for index := range g.marks {
		l.touched[index] = true
	}
	return nil
}

// settle makes known what graph says.
func (l *Links) settle() (changed []int) {
	for index := range l.touched {
		was, known := l.known[index]
		now := l.graph.links[index]
		switch {
		case now == nil && known:
			delete(l.known, index)
		case now == nil:
			continue
		default:
			link, mark := now.NodeLink, l.graph.marks[index]
			link.Uplink, link.Addressed = mark.uplink, mark.addressed
			if known && link.equal(was) {
				continue
			}
			l.known[index] = link
		}
		changed = append(changed, index)
	}
	clear(l.touched)
	return changed
}
