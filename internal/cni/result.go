// Package cni is what a program needs to be a CNI plugin, and to call others: the entry that a runtime calls, what may be a name,
// plugins' answers of any version, and words for what container runtimes would misread.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// ReadResult reads a plugin's result, in the version that it says of itself; otherwise is that of one that says none, as
// most IPAM plugins' are. What a library would follow as a nil pointer is refused.
func ReadResult(data []byte, otherwise string) (types.Result, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("result is not a JSON object: %w", err)
	}
	if raw == nil {
		return nil, errors.New("result is null")
	}
	said := ""
	if v, ok := raw["cniVersion"]; ok {
		if err := json.Unmarshal(v, &said); err != nil {
			return nil, fmt.Errorf("result: key cniVersion: %w", err)
		}
	}
	for key, list := range raw {
		if err := noNull(key, list); err != nil {
			return nil, err
		}
	}
	if said == "" {
		// The library wants it in there, since 0.3.
		said = otherwise
		version, err := json.Marshal(said)
		if err != nil {
			return nil, fmt.Errorf("result: key cniVersion: %w", err)
		}
		raw["cniVersion"] = version
		if data, err = json.Marshal(raw); err != nil {
			return nil, fmt.Errorf("read the result: %w", err)
		}
	}
	result, err := create.Create(said, data)
	if err != nil {
		return nil, fmt.Errorf("read a result of cniVersion %q: %w", said, err)
	}
	return result, nil
}

// noNull asks by the key as the JSON decoder of the library does, to which "Routes" is "routes".
func noNull(key string, list json.RawMessage) error {
	if !slices.ContainsFunc([]string{"interfaces", "ips", "routes"}, func(k string) bool { return strings.EqualFold(k, key) }) {
		return nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(list, &elements); err != nil {
		return fmt.Errorf("result: key %s: %w", key, err)
	}
	for i, e := range elements {
		if string(e) == "null" {
			return fmt.Errorf("result: element %d of %s is null", i, key)
		}
	}
	return nil
}

// ReadCurrent is ReadResult for those who want the newest version of it. One is refused, too, that has an address or a
// route without its network: the library encodes that as "<nil>", which nobody can read again.
func ReadCurrent(data []byte, otherwise string) (*types100.Result, error) {
	read, err := ReadResult(data, otherwise)
	if err != nil {
		return nil, err
	}
	return Current(read)
}

// Current is the newest version of a result, as ReadCurrent has it.
func Current(read types.Result) (*types100.Result, error) {
	r, err := types100.NewResultFromResult(read)
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	for i, ip := range r.IPs {
		if ip.Address.IP == nil {
			return nil, fmt.Errorf("result: element %d of ips has no address", i)
		}
	}
	for i, route := range r.Routes {
		if route.Dst.IP == nil {
			return nil, fmt.Errorf("result: element %d of routes has no dst", i)
		}
	}
	return r, nil
}
