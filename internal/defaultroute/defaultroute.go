// Package defaultroute sets a pod's default routes. It links the messages of the netlink library and not the library's own types
// of everything: the CNI plugin that needs this for some pods starts for all of them.
package defaultroute

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// ErrGateway means that the kernel does not reach a gateway through its interface: there may be none of that name, or it is down.
var ErrGateway = errors.New("the interface does not reach the gateway")

// A Gateway is where a default route goes: to an address, through an interface.
type Gateway struct {
	IfName  string
	Address netip.Addr
}

// Set makes the default routes in the main table of the network namespace at path exactly those given, for IPv4 and IPv6
// alike, and keeps routers from adding others by their advertisements. Nothing is changed if it fails: what it had removed is
// put back. The routes of a family may be missing for about a millisecond. The error wraps ErrGateway if a gateway is out of
// reach.
func Set(path string, want []Gateway) error {
	ns, err := netns.Open(path)
	if err != nil {
		return fmt.Errorf("set default routes: %w", err)
	}
	defer ns.Close()
	return ns.Do(func() error { return set(want) }) // sockets, and proc's settings, are of the opening thread's namespace
}

func set(want []Gateway) (err error) {
	routes := make([]route, 0, len(want))
	for _, g := range want {
		index, notFound := linkIndex(g.IfName)
		if notFound != nil {
			return fmt.Errorf("set a default route via %s: find interface %s: %w", g.Address, g.IfName, notFound)
		}
		routes = append(routes, via(g.Address.Unmap(), index))
	}
	learning, err := stopLearning() // first, else the next advertisement brings back what is removed here
	defer func() {
		if err != nil {
			err = errors.Join(err, learning.restore())
		}
	}()
	if err != nil {
		return err
	}
	before, err := list()
	if err != nil {
		return err
	}
	if err := replace(before, routes); err != nil {
		now, listed := list()
		if listed != nil {
			return errors.Join(err, listed)
		}
		if back := replace(now, before); back != nil {
			err = errors.Join(err, fmt.Errorf("put the default routes back: %w", back))
		}
		return err
	}
	return nil
}

// learning has what accept_ra_defrtr was, by its file.
type learning map[string][]byte

// stopLearning switches accept_ra_defrtr off on every interface: whether the kernel takes a router that advertises itself for a
// default route. It goes on with addresses and with routes to certain subnets. The setting stays with the interface until that
// leaves the namespace. What it has changed is returned with an error, too.
func stopLearning() (learning, error) {
	was := learning{}
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra_defrtr")
	if err != nil {
		return nil, err
	}
	for _, path := range files { // none in a kernel without IPv6
		if slices.Contains([]string{"all", "default", "lo"}, filepath.Base(filepath.Dir(path))) {
			continue // the first two change no interface that is there
		}
		old, err := os.ReadFile(path)
		if err == nil && string(bytes.TrimSpace(old)) != "0" {
			was[path] = old
			err = netns.WriteSetting(path, []byte("0"))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // an interface may go meanwhile
			return was, fmt.Errorf("keep routers from setting default routes: %w", err)
		}
	}
	return was, nil
}

func (l learning) restore() (err error) {
	for path, old := range l {
		if bad := netns.WriteSetting(path, old); !errors.Is(bad, os.ErrNotExist) {
			err = errors.Join(err, bad)
		}
	}
	return err
}

func replace(old, now []route) error {
	for _, r := range old {
		// ESRCH: it is gone already, as the kernel removes routes of an interface that goes down.
		if err := r.delete(); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove %s: %w", r, err)
		}
	}
	for _, r := range now {
		err := r.append()
		switch {
		// EINVAL is IPv6's word for a gateway that is the pod's own address, ENODEV and EACCES for an interface without IPv6, ENETDOWN
		// for one that is down.
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV),
			errors.Is(err, unix.EACCES), errors.Is(err, unix.ENETDOWN):
			return fmt.Errorf("add %s: %w: %w", r, ErrGateway, err)
		case err != nil:
			return fmt.Errorf("add %s: %w", r, err)
		}
	}
	return nil
}
