package agentapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame bounds one document, in bytes, so that a wrong length costs its reader no memory. A plan of 32 attachments
// has some 200 KB.
const MaxFrame = 4 << 20

// ErrFrame means that what came over the socket is no frame: an impossible length, a document cut short, or not JSON.
var ErrFrame = errors.New("invalid frame")

// WriteFrame sends v as one frame, in a single write. An error that wraps ErrFrame says that v is too large or cannot
// be encoded, and that nothing was sent; any other is the writer's own.
func WriteFrame(w io.Writer, v any) error {
	frame, err := encode(v)
	if err != nil {
		return err
	}
	return send(w, frame)
}

// encode makes the frame of v. The error wraps ErrFrame.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: encode %T: %w", ErrFrame, v, err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, %d at most", ErrFrame, len(body), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

func send(w io.Writer, frame []byte) error {
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// ReadFrame receives one frame into v. The error is io.EOF if the peer closed without a word, wraps ErrFrame if what it
// sent is no frame, and is the reader's own else.
func ReadFrame(r io.Reader, v any) error {
	var head [4]byte
	n, err := io.ReadFull(r, head[:])
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: cut off inside its length", ErrFrame)
	case err != nil:
		return fmt.Errorf("receive frame: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return fmt.Errorf("%w: %d bytes announced, 1 to %d expected", ErrFrame, size, MaxFrame)
	}
	// ReadAll grows as bytes arrive: a peer that announces 4 MB and sends nothing costs nothing.
	body, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return fmt.Errorf("receive frame: %w", err)
	}
	if len(body) < int(size) {
		return fmt.Errorf("%w: cut off after %d of %d bytes", ErrFrame, len(body), size)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}
