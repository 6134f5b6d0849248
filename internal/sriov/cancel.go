package sriov

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// A DEL that does not get the lock within its time leaves a mark for the ADD that holds it: <PCI address>.cancel beside the
// record, with the owner's container id and interface name. It is not in the record itself, which only the lock's holder
// writes. The ADD gives up and undoes; the runtime's next DEL finds the rest done.

const markPoll = 100 * time.Millisecond

var errCancelled = errors.New("a DEL for the same attachment came meanwhile")

func (p *Plugin) markPath(address string) string {
	return filepath.Join(p.Records.Dir, address+".cancel")
}

func (c *call) mark() string { return c.ContainerID + "\n" + c.IfName + "\n" }

// leaveMark asks a running ADD of the same attachment to give up. A VF whose record names somebody else, or that has none,
// gets no mark.
func (p *Plugin) leaveMark(c *call, address pci.Address) error {
	r, err := readRecord(p.Records, address.String())
	if err != nil || !c.owns(r) {
		return nil //nolint:nilerr // nothing to ask for
	}
	f, err := os.OpenFile(p.markPath(address.String()), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return coded(types.ErrIOFailure, fmt.Errorf("mark the attachment as deleted: %w", err))
	}
	_, err = f.WriteString(c.mark())
	return errors.Join(err, f.Close())
}

// dropMark removes what a DEL left for an earlier ADD. It comes before the record names the new owner: what comes after is
// for the new one.
func (d *device) dropMark() { _ = unix.Unlink(d.p.markPath(d.key())) }

// untilCancelled is ctx that ends, too, when a DEL leaves its mark.
func (d *device) untilCancelled(ctx context.Context, c *call) (context.Context, context.CancelFunc) {
	path := d.p.markPath(d.key())
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(markPoll):
				if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == strings.TrimSpace(c.mark()) {
					cancel(errCancelled)
				}
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// calledOff is the error of an ADD that is to give up.
func calledOff(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return coded(types.ErrTryAgainLater, fmt.Errorf("ADD was called off: %w", context.Cause(ctx)))
}
