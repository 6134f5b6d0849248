package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds on what a pod's or a definition's author can hand in. The honest maximum is far below each.
const (
	// MaxAnnotation is the longest networks annotation, in bytes: Kubernetes' own limit on all annotations of an object.
	MaxAnnotation = 256 << 10
	// MaxConfig is the longest configuration of one definition, in bytes.
	MaxConfig = 256 << 10
	// MaxAttachments is how many networks one pod can have beside the default.
	MaxAttachments = 32
	// MaxPlugins is how many plugins one network can chain.
	MaxPlugins = 16
	// MaxIPs and MaxGateways are how many of each one network of a pod can ask for: each costs the kernel at least one call,
	// while the pod waits.
	MaxIPs, MaxGateways = 64, 16
	// MaxPortMappings is how many a network can ask for. Media servers have thousands, a port each.
	MaxPortMappings = 4096
	// MaxPlan bounds all configurations of one plan together, in bytes, so that the answer fits a protocol frame.
	MaxPlan = 3 << 20

	// MaxDepth is how deep the JSON of either may be nested.
	MaxDepth = 64
)

// checkJSON refuses what decoders read differently from one another: two keys of one name in an object (Go takes the
// last, others the first), documents behind the first, and nesting that costs its reader a stack. Its own cost is that of one
// pass, and of the names of the keys.
func checkJSON(data []byte) *Error {
	if tooDeep(data) { // before any decoder goes down there
		return problem(TooDeep, "flatten it", "it is nested more than %d levels deep", MaxDepth)
	}
	if !json.Valid(data) {
		return problem(NotJSON, "check commas, quotes and brackets", "it is not JSON: %v", syntaxError(data))
	}
	var (
		keys     [MaxDepth + 1]map[string]bool // of the last object at each depth
		inObject [MaxDepth + 1]bool            // whether what is open there is one, or an array
		depth    int
		isKey    bool // the next string is a key
	)
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			depth++
			inObject[depth], isKey = true, true
			keys[depth] = emptied(keys[depth])
		case '[':
			depth++
			inObject[depth], isKey = false, false
		case '}', ']':
			depth--
		case ',':
			isKey = inObject[depth]
		case ':':
			isKey = false
		case '"':
			end := endOfString(data, i)
			if isKey {
				key := unquoteKey(data[i:end])
				if keys[depth][key] {
					return problem(DuplicateKey, "keep one of them", "the key %s is there twice in one object", quote(key))
				}
				keys[depth][key] = true
			}
			i = end - 1
		}
	}
	return nil
}

// emptied is an empty map: m itself, unless it was large, for then to clear it costs as much as it once held, each time.
func emptied(m map[string]bool) map[string]bool {
	if m == nil || len(m) > 32 {
		return map[string]bool{}
	}
	clear(m)
	return m
}

// tooDeep looks at brackets alone, so the text need not be JSON.
func tooDeep(data []byte) bool {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			i = endOfString(data, i) - 1
		}
	}
	return false
}

// endOfString is where the string that begins at i has ended.
func endOfString(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// unquoteKey is the key as decoders see it: they take "\u0061" for "a", and everything that is not UTF-8 for one letter.
func unquoteKey(raw []byte) string {
	for _, c := range raw {
		if c == '\\' || c >= utf8.RuneSelf {
			s, _ := decodeString(raw)
			return s
		}
	}
	return string(raw[1 : len(raw)-1])
}

// syntaxError finds where the JSON breaks, in words that point into the text.
func syntaxError(data []byte) error {
	err := json.Unmarshal(data, new(any))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		from := max(0, int(syntax.Offset)-20)
		return fmt.Errorf("%w, at byte %d, after %s", err, syntax.Offset, quote(string(data[from:min(int(syntax.Offset), len(data))])))
	}
	return err
}

type object = map[string]json.RawMessage

func decodeObject(raw json.RawMessage) (object, *Error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || o == nil {
		return nil, problem(WrongType, `write {"key": value}`, "%s is not an object", quote(string(raw)))
	}
	return o, nil
}

func decodeString(raw json.RawMessage) (string, *Error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", problem(WrongType, "put it in double quotes", "%s is not a string", quote(string(raw)))
	}
	return *s, nil
}

func decodeList(raw json.RawMessage) ([]json.RawMessage, *Error) {
	var l []json.RawMessage
	if err := json.Unmarshal(raw, &l); err != nil || l == nil {
		return nil, problem(WrongType, "put the value in [ ]", "%s is not a list", quote(string(raw)))
	}
	return l, nil
}

// encode marshals what this package has itself put together: strings, numbers, maps and valid raw messages.
func encode(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only an invalid RawMessage can do this, and checkJSON saw them all
	}
	return data
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// canonical renames keys that Go's decoders would take for one of names, whatever their case, to that name. Plugins
// read their configuration with such decoders, so a check of the exact name alone could be walked around.
func canonical(o object, names ...string) *Error {
	for key := range o {
		for _, name := range names {
			if key == name || !strings.EqualFold(key, name) {
				continue
			}
			if _, both := o[name]; both {
				return problem(DuplicateKey, "keep "+name, "the keys %s and %s are the same to a plugin", quote(key), name)
			}
			o[name] = o[key]
			delete(o, key)
		}
	}
	return nil
}
