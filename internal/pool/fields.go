package pool

import (
	"fmt"
	"slices"
	"strings"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// object reads the members of an object by key, and says which of its keys are not known; nil if it is no object.
func (p *parser) object(n *node, path string, known ...string) map[string]*node {
	return p.objectFor(n, path, "", known)
}

// objectFor is object for the selectors of one device type, whose name makes the faults clearer.
func (p *parser) objectFor(n *node, path, kind string, known []string) map[string]*node {
	members, ok := n.value.([]member)
	if !ok {
		p.fault(n, path, "want an object, not %s", n.kind())
		return nil
	}
	fields := map[string]*node{}
	for _, m := range members {
		at := join(path, m.key)
		key, ok := p.known(m, at, kind, known)
		if !ok {
			continue
		}
		if _, twice := fields[key]; twice {
			p.fault(&node{line: m.line}, at, "it is there twice")
			continue
		}
		if m.value.value != nil { // null is as good as absent
			fields[key] = m.value
		}
	}
	return fields
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// known finds the key that is meant. The peer reads keys without regard to case, so files that rely on it exist: they
// work, with a warning.
func (p *parser) known(m member, at, kind string, known []string) (string, bool) {
	if slices.Contains(known, m.key) {
		return m.key, true
	}
	for _, k := range known {
		if strings.EqualFold(k, m.key) {
			p.warnings = append(p.warnings, Fault{m.line, at, fmt.Sprintf("it is read as %s: write it so", k)})
			return k, true
		}
	}
	message := "there is no such key"
	if kind == "" && slices.Contains(selectorKeys[NetDevice], m.key) {
		p.faults = append(p.faults, Fault{m.line, at, message + " here: it belongs into selectors"})
		return "", false
	}
	if kind != "" {
		message += " for " + kind
	}
	if near := nearest(m.key, known); near != "" {
		message += ": did you mean " + near + "?"
	} else {
		message += ": want " + strings.Join(known, ", ")
	}
	p.faults = append(p.faults, Fault{m.line, at, message})
	return "", false
}

func (p *parser) list(n *node, path string) []*node {
	items, ok := n.value.([]*node)
	if !ok {
		p.fault(n, path, "want a list, not %s", n.kind())
	}
	return items
}

func (p *parser) items(fields map[string]*node, path, key string) []*node {
	n, ok := fields[key]
	if !ok {
		return nil
	}
	return p.list(n, path+"."+key)
}

// values reads a list of strings, each through check, which gives its normal form.
func (p *parser) values(fields map[string]*node, path, key string, check func(string) (string, error)) []string {
	var values []string
	for i, item := range p.items(fields, path, key) {
		at := fmt.Sprintf("%s.%s[%d]", path, key, i)
		text, ok := item.value.(string)
		if !ok {
			p.fault(item, at, "want a string, not %s", item.kind())
			continue
		}
		value, err := check(text)
		if err != nil {
			p.fault(item, at, "%v", err)
			continue
		}
		values = append(values, value)
	}
	return values
}

func (p *parser) text(n *node, path string) string {
	s, ok := n.value.(string)
	if !ok {
		p.fault(n, path, "want a string, not %s", n.kind())
	}
	return s
}

func (p *parser) boolean(fields map[string]*node, path, key string) bool {
	n, ok := fields[key]
	if !ok {
		return false
	}
	b, ok := n.value.(bool)
	if !ok {
		p.fault(n, path+"."+key, "want true or false, not %s", n.kind())
	}
	return b
}

func (p *parser) oneOf(n *node, path string, choices ...string) string {
	s := p.text(n, path)
	if _, isText := n.value.(string); !isText || slices.Contains(choices, s) {
		return s
	}
	message := fmt.Sprintf("%q is not one of %s", s, strings.Join(choices, ", "))
	if near := nearest(s, choices); near != "" {
		message += ": did you mean " + near + "?"
	}
	p.fault(n, path, "%s", message)
	return s
}

// info reads {"*" or address: {key: value}}.
func (p *parser) info(n *node, path string, kind DeviceType) map[string]map[string]string {
	members, ok := n.value.([]member)
	if !ok {
		p.fault(n, path, "want an object, not %s", n.kind())
		return nil
	}
	all := map[string]map[string]string{}
	for _, m := range members {
		at := join(path, m.key)
		key := m.key
		if address, err := pci.ParseAddress(key); err == nil {
			key = address.String() // as devices are called, in lower case
		} else if key != "*" && kind != AuxNetDevice {
			p.warn(place{m.line, at}, "it is for no device: want \"*\" for all of them, or a PCI address such as 0000:3b:02.0")
		}
		values, ok := m.value.value.([]member)
		if !ok {
			p.fault(m.value, at, "want an object of strings, not %s", m.value.kind())
			continue
		}
		if _, twice := all[key]; twice {
			p.fault(&node{line: m.line}, at, "it is there twice")
			continue
		}
		all[key] = p.texts(values, at)
	}
	return all
}

// texts reads the members of an object of strings.
func (p *parser) texts(members []member, path string) map[string]string {
	all := map[string]string{}
	for _, m := range members {
		at := join(path, m.key)
		if _, twice := all[m.key]; twice {
			p.fault(&node{line: m.line}, at, "it is there twice")
			continue
		}
		all[m.key] = p.text(m.value, at)
	}
	return all
}

// leftover warns of keys of a pool that the SR-IOV network operator writes: fields of its own program, which mean nothing.
func (p *parser) leftover(n *node, path string) (keys []string) {
	members, _ := n.value.([]member)
	for _, m := range members {
		if strings.EqualFold(m.key, "SelectorObj") || strings.EqualFold(m.key, "SelectorObjs") {
			p.warn(place{m.line, join(path, m.key)}, "it is passed over: to a device plugin it means nothing")
			keys = append(keys, m.key)
		}
	}
	return keys
}

// nearest is the known word that a near miss is likely to mean; empty if none is near.
func nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	best, distance := "", len(word)
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < distance && d <= max(2, len(k)/3) {
			best, distance = k, d
		}
	}
	return best
}

// edits counts the insertions, removals and replacements that make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
