package delegate

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// convertResult reads what a plugin printed, by the version that it says of itself (the asked one if it says none), and
// returns it in the version asked for.
func convertResult(data []byte, asked string) (json.RawMessage, error) {
	result, err := parseResult(data, asked)
	if err != nil {
		return nil, err
	}
	converted, err := result.GetAsVersion(asked)
	if err != nil {
		return nil, fmt.Errorf("convert the result: %w", err)
	}
	out, err := json.Marshal(converted)
	if err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	// An address that is missing is encoded as "<nil>": the next plugin, and DEL, could not read what this one said.
	if _, err := current(out, asked); err != nil {
		return nil, fmt.Errorf("the result is incomplete: %w", err)
	}
	return out, nil
}

// parseResult reads a result of any version; otherwise is the version of one that says none.
func parseResult(data []byte, otherwise string) (types.Result, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("result is not a JSON object: %w", err)
	}
	if raw == nil {
		return nil, fmt.Errorf("result is null")
	}
	said := ""
	if v, ok := raw["cniVersion"]; ok {
		if err := json.Unmarshal(v, &said); err != nil {
			return nil, fmt.Errorf("result: key cniVersion: %w", err)
		}
	}
	if said == "" {
		said = otherwise
	}
	// A null in one of these lists becomes a nil pointer, which the conversion follows.
	for _, key := range []string{"interfaces", "ips", "routes"} {
		var list []json.RawMessage
		if err := get(raw, key, &list); err != nil {
			return nil, fmt.Errorf("result: %w", err)
		}
		for i, v := range list {
			if string(v) == "null" {
				return nil, fmt.Errorf("result: element %d of %s is null", i, key)
			}
		}
	}
	version, err := json.Marshal(said)
	if err != nil {
		return nil, fmt.Errorf("result: key cniVersion: %w", err)
	}
	raw["cniVersion"] = version
	fixed, err := json.Marshal(raw)
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	result, err := create.Create(said, fixed)
	if err != nil {
		return nil, fmt.Errorf("read a result of cniVersion %q: %w", said, err)
	}
	return result, nil
}

// current reads a stored result as the newest version.
func current(data []byte, otherwise string) (*types100.Result, error) {
	result, err := parseResult(data, otherwise)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}
