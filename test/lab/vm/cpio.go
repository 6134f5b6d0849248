package vm

import (
	"fmt"
	"io"
)

// cpioWriter writes the "newc" archive that the kernel unpacks as its first root. The kernel takes several archives one
// after the other, so what changes with each run follows what is made once.
type cpioWriter struct {
	w   io.Writer
	n   int64 // bytes written
	ino int
	err error
}

const (
	cpioDir  = 0o040755
	cpioFile = 0o100644
	cpioExec = 0o100755
)

// add writes one entry; the first error sticks and is told by close.
func (c *cpioWriter) add(name string, mode int, data []byte) {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.write([]byte(header + name + "\x00"))
	c.pad(4)
	c.write(data)
	c.pad(4)
}

func (c *cpioWriter) close() error {
	c.add("TRAILER!!!", 0, nil)
	c.pad(512)
	return c.err
}

func (c *cpioWriter) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		c.err = fmt.Errorf("write the initramfs: %w", err)
	}
}

func (c *cpioWriter) pad(to int64) {
	if over := c.n % to; over > 0 {
		c.write(make([]byte, to-over))
	}
}
