package offer

import (
	"fmt"
	"sync"
	"time"
)

// claims are the devices that pods have, or may have. A device is claimed from the moment the kubelet allocates it until
// answers that are complete have lacked it for a while: the kubelet lists an allocation only after it has recorded it, and
// one that just started lists its pods one after the other.
type claims struct {
	settle time.Duration

	mu       sync.Mutex
	byID     map[string]claim
	complete time.Time // since when each answer was complete; zero: the last one was not
}

type claim struct {
	resource string
	seen     time.Time
}

// allocate claims devices, all or none. Whoever writes files for them does so afterwards. One that a pod has as another
// resource is refused: it moved from pool to pool in the moment in which the kubelet gave it away.
func (c *claims) allocate(resource string, ids []string, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if x, ok := c.byID[id]; ok && x.resource != resource {
			return fmt.Errorf("device %s of %s is a pod's already, as %s: it changed its pool a moment ago", id, resource, x.resource)
		}
	}
	for _, id := range ids {
		c.set(id, resource, now)
	}
	return nil
}

func (c *claims) set(id, resource string, now time.Time) {
	if c.byID == nil {
		c.byID = map[string]claim{}
	}
	c.byID[id] = claim{resource, now}
}

// answered takes an answer of the kubelet in. One that is not complete still says what pods have, only not what they have
// not; no answer at all is nil and not complete.
func (c *claims) answered(held map[string]string, complete bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, resource := range held {
		c.set(id, resource, now)
	}
	if !complete {
		c.complete = time.Time{}
		return
	}
	if c.complete.IsZero() {
		c.complete = now
	}
	for id, x := range c.byID {
		if now.Sub(x.seen) > c.settle && c.settled(now) {
			delete(c.byID, id)
		}
	}
}

// settled reports whether what is not claimed is free for sure.
func (c *claims) settled(now time.Time) bool {
	return !c.complete.IsZero() && now.Sub(c.complete) > c.settle
}

// held gives the claims, by id the resource.
func (c *claims) held() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := make(map[string]string, len(c.byID))
	for id, x := range c.byID {
		held[id] = x.resource
	}
	return held
}

// of counts a resource's claims.
func (c *claims) of(resource string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.byID {
		if x.resource == resource {
			n++
		}
	}
	return n
}

// sweep calls remove with the claims, if what is not among them is free for sure. Nothing is claimed meanwhile.
func (c *claims) sweep(now time.Time, remove func(claimed map[string]claim)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settled(now) {
		remove(c.byID)
	}
}
