package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrames(t *testing.T) {
	type frame struct {
		Kind    Kind
		Payload []byte
	}
	var line bytes.Buffer
	c := NewConn(&line)
	long := bytes.Repeat([]byte("x"), 2*MaxPayload+1)
	if err := c.Send(Ready, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Writer(Stdout).Write(long); n != len(long) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(long), err)
	}
	if err := c.SendNumber(Exit, 137); err != nil {
		t.Fatal(err)
	}
	want := []frame{
		{Ready, []byte{}},
		{Stdout, long[:MaxPayload]},
		{Stdout, long[:MaxPayload]},
		{Stdout, []byte("x")},
		{Exit, []byte{0, 0, 0, 137}},
	}
	var got []frame
	for {
		k, p, err := c.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, frame{k, p})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, err := Number(want[4].Payload); n != 137 || err != nil {
		t.Errorf("number %d, %v", n, err)
	}
}

func TestBrokenFrames(t *testing.T) {
	tests := []struct {
		name string
		line []byte
		want error // nil: any
	}{
		{"cut in the head", []byte{byte(Stdout), 0}, io.ErrUnexpectedEOF},
		{"cut in the payload", []byte{byte(Stdout), 0, 0, 0, 2, 'x'}, io.ErrUnexpectedEOF},
		{"too long", []byte{byte(Stdout), 0xff, 0, 0, 0}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := NewConn(bytes.NewBuffer(tt.line)).Receive()
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if err := NewConn(&bytes.Buffer{}).Send(Stdout, make([]byte, MaxPayload+1)); err == nil {
		t.Error("sent a payload over the bound")
	}
	if _, err := Number([]byte{1}); err == nil {
		t.Error("took one byte for a number")
	}
}
