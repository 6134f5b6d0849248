package pool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A node is a JSON value that knows its line, and an object's keys in their order and number: encoding/json forgets all
// three, and all three are needed to say what is wrong with a file.
type node struct {
	line  int
	value any // nil, bool, json.Number, string, []*node, []member
}

type member struct {
	key   string
	line  int
	value *node
}

func (n *node) kind() string {
	switch n.value.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []*node:
		return "a list"
	default:
		return "an object"
	}
}

// has reports whether the object has the key, whatever its value.
func (n *node) has(key string) bool {
	members, _ := n.value.([]member)
	return slices.ContainsFunc(members, func(m member) bool { return strings.EqualFold(m.key, key) })
}

// without is the object less some keys.
func (n *node) without(keys []string) *node {
	members, ok := n.value.([]member)
	if !ok || len(keys) == 0 {
		return n
	}
	return &node{n.line, slices.DeleteFunc(slices.Clone(members), func(m member) bool { return slices.Contains(keys, m.key) })}
}

// maxDepth bounds the recursion. The format needs 5.
const maxDepth = 32

type treeReader struct {
	data    []byte
	decoder *json.Decoder

	counted  int64 // up to where
	newlines int   // there are so many
}

// parseTree reads exactly one JSON value. The error is a Fault's message and its line.
func parseTree(data []byte) (*node, *Fault) {
	r := &treeReader{data: data, decoder: json.NewDecoder(bytes.NewReader(data))}
	r.decoder.UseNumber()
	root, err := r.read(0)
	if err == nil {
		if _, more := r.decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is something after the end of the configuration")
		}
	}
	if err != nil {
		return nil, &Fault{Line: r.line(r.errorOffset(err)), Message: syntaxMessage(err)}
	}
	return root, nil
}

func syntaxMessage(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the file ends before the configuration does (it is empty, or cut off)"
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "this is not JSON: " + syntax.Error()
	}
	return err.Error()
}

func (r *treeReader) errorOffset(err error) int64 {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Offset
	}
	return r.decoder.InputOffset()
}

// line tells which line an offset is on. Offsets only grow, so it counts on from the last one.
func (r *treeReader) line(offset int64) int {
	offset = min(offset, int64(len(r.data)))
	if offset < r.counted {
		return 1 + bytes.Count(r.data[:offset], []byte{'\n'})
	}
	r.newlines += bytes.Count(r.data[r.counted:offset], []byte{'\n'})
	r.counted = offset
	return 1 + r.newlines
}

func (r *treeReader) read(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	n := &node{line: r.line(r.decoder.InputOffset())}
	switch token {
	case json.Delim('['):
		n.value, err = r.list(depth)
	case json.Delim('{'):
		n.value, err = r.object(depth)
	default:
		n.value = token
	}
	return n, err
}

func (r *treeReader) list(depth int) ([]*node, error) {
	items := []*node{}
	for r.decoder.More() {
		item, err := r.read(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	_, err := r.decoder.Token()
	return items, err
}

func (r *treeReader) object(depth int) ([]member, error) {
	members := []member{}
	for r.decoder.More() {
		token, err := r.decoder.Token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("a key must be a string, not %v", token)
		}
		m := member{key: key, line: r.line(r.decoder.InputOffset())}
		if m.value, err = r.read(depth + 1); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	_, err := r.decoder.Token()
	return members, err
}
