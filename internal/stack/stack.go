// Package stack gives the main goroutine a large stack, once and early, in programs that link it.
//
// Go starts with 2 KB and doubles them when a call finds them full: it looks up each frame, copies all, and takes the new stack from
// a pool whose pages are all touched when it is made. A program that starts for each pod, and ends a few milliseconds later, sees
// that four times. Packages are initialized in the order of their paths as soon as what they import is: this one imports nothing
// and comes before those of the standard library that would let the stack grow.
package stack

// size is more than half of 32 KB, so that the stack has these, and is not from that pool.
const size = 18 << 10

func init() { grow(false) }

// grow has a large frame, which is what counts: nothing of it is touched.
//
//go:noinline
func grow(touch bool) byte {
	if !touch {
		return 0
	}
	var frame [size]byte
	return first(&frame)
}

//go:noinline
func first(frame *[size]byte) byte { return frame[0] }
