// Package wire is what the host and the guest of a lab say to each other: the job that the guest finds at boot,
// and the frames on the virtio-serial port that carry the command's input, output, signals and exit status.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Port is the name of the virtio-serial port. It is apart from the kernel's console, so that binary output and kernel
// messages never mix.
const Port = "viaduct.lab"

// GuestProgram is the base name under which a program that links package vm becomes the guest's init.
const GuestProgram = "viaduct-lab-guest"

// Job is what the guest runs, as JSON.
type Job struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	// TTY gives the command a pseudo-terminal of Rows × Cols as its controlling terminal.
	TTY        bool   `json:"tty,omitempty"`
	Rows, Cols uint16 `json:",omitempty"`
	// OneOutput sends stdout and stderr through one pipe, which keeps their order.
	OneOutput bool `json:"oneOutput,omitempty"`
	// Kernel is the folder that holds lib/modules of the running kernel.
	Kernel string `json:"kernel"`
	// Modules are loaded before the command starts, as udev would have done on a node.
	Modules []string `json:"modules,omitempty"`
	// VFs are made on each PF, for which its interface is set up.
	VFs    int     `json:"vfs,omitempty"`
	Shares []Share `json:"shares,omitempty"`
	// Persist says that a virtio block device with the serial number PersistSerial belongs at /persist.
	Persist bool `json:"persist,omitempty"`
	// Return are files that go back to the host when the command is done: guest path to name in the share "return".
	Return map[string]string `json:"return,omitempty"`
}

// Share is a folder of the host that the guest can write.
type Share struct {
	Tag   string `json:"tag"`
	Guest string `json:"guest"` // where it is mounted
}

// ReturnTag is the tag of the share for Job.Return, mounted at ReturnDir.
const (
	ReturnTag     = "return"
	ReturnDir     = "/run/viaduct-lab/return"
	PersistSerial = "viaduct-persist"
)

// Kind says what a frame is.
type Kind byte

// The frames. From the guest: Ready once, before the command starts; Stdout and Stderr; Note for people; InputTaken
// after each Stdin; at the end Exit (payload: status as uint32) or Failed (payload: why the command did not start).
// From the host: Stdin (an empty one is the end of input), Signal (uint32), Resize (rows, cols: two uint16), Bye.
const (
	Ready Kind = iota + 1
	Stdout
	Stderr
	Note
	InputTaken
	Exit
	Failed
	Stdin
	Signal
	Resize
	Bye
)

// MaxPayload bounds a frame's payload, in bytes.
const MaxPayload = 32 << 10

// Conn sends and receives frames. Send may be called from several goroutines, Receive from one.
type Conn struct {
	mu sync.Mutex
	rw io.ReadWriter
}

// NewConn speaks over rw.
func NewConn(rw io.ReadWriter) *Conn { return &Conn{rw: rw} }

// Send writes one frame: a kind byte, the payload's length as a big-endian uint32, the payload.
func (c *Conn) Send(k Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("send frame %d: payload of %d bytes is over %d", k, len(payload), MaxPayload)
	}
	frame := make([]byte, 0, 5+len(payload))
	frame = append(frame, byte(k))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	frame = append(frame, payload...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.rw.Write(frame); err != nil {
		return fmt.Errorf("send frame %d: %w", k, err)
	}
	return nil
}

// SendNumber sends a frame that carries one number.
func (c *Conn) SendNumber(k Kind, n int) error {
	return c.Send(k, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// Receive reads one frame. io.EOF means that the other side closed between frames.
func (c *Conn) Receive() (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("receive frame %d: payload of %d bytes is over %d", head[0], n, MaxPayload)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(c.rw, payload); err != nil {
		return 0, nil, fmt.Errorf("receive frame %d: %w", head[0], err)
	}
	return Kind(head[0]), payload, nil
}

// Number reads a payload written by SendNumber.
func Number(payload []byte) (int, error) {
	if len(payload) != 4 {
		return 0, fmt.Errorf("a number has 4 bytes, this payload has %d", len(payload))
	}
	return int(binary.BigEndian.Uint32(payload)), nil
}

// Writer sends everything written to it as frames of one kind.
func (c *Conn) Writer(k Kind) io.Writer { return frameWriter{c, k} }

type frameWriter struct {
	c *Conn
	k Kind
}

func (w frameWriter) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); sent += MaxPayload {
		if err := w.c.Send(w.k, p[sent:min(sent+MaxPayload, len(p))]); err != nil {
			return sent, err
		}
	}
	return len(p), nil
}
