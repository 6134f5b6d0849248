package vm

import (
	"io"
	"sync"
)

// keep is how much of the console stays for an error, in bytes.
const keep = 64 << 10

// console keeps the end of what the guest's kernel and QEMU itself say.
type console struct {
	mu   sync.Mutex
	buf  []byte
	live io.Writer // nil: not shown
}

func newConsole(live io.Writer) *console { return &console{live: live} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	if over := len(c.buf) - keep; over > 0 {
		c.buf = c.buf[over:]
	}
	if c.live != nil {
		_, _ = c.live.Write(p) // the machine does not stop because nobody looks
	}
	return len(p), nil
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.buf)
}
