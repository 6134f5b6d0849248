package delegate

import (
	"encoding/json"
	"fmt"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

// convertResult reads what a plugin printed, by the version that it says of itself (the asked one if it says none), and
// returns it in the version asked for.
func convertResult(data []byte, asked string) (json.RawMessage, error) {
	result, err := cni.ReadResult(data, asked)
	if err != nil {
		return nil, err
	}
	// An address that is missing is encoded as "<nil>": the next plugin, and DEL, could not read what this one said.
	if _, err := cni.Current(result); err != nil {
		return nil, fmt.Errorf("the result is incomplete: %w", err)
	}
	converted, err := result.GetAsVersion(asked)
	if err != nil {
		return nil, fmt.Errorf("convert the result: %w", err)
	}
	out, err := json.Marshal(converted)
	if err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return out, nil
}
