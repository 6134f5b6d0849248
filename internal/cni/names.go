package cni

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
)

// CheckContainerID takes what the specification lets a container id be: letters, digits, '.', '_' and '-', the first a letter
// or a digit. The error is of code 4.
func CheckContainerID(s string) error {
	if !IsName(s) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_CONTAINERID %q is no container id", s),
			"it must be of letters, digits, '.', '_' and '-', and start with a letter or a digit")
	}
	return nil
}

// CheckNetworkName takes the same of a network's name. The error is of code 7.
func CheckNetworkName(s string) error {
	if s == "" {
		return types.NewError(types.ErrInvalidNetworkConfig, "the configuration has no name", "")
	}
	if !IsName(s) {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("name: %q cannot be a network's name", s),
			"it must be of letters, digits, '.', '_' and '-', and start with a letter or a digit")
	}
	return nil
}

// IsName reports whether s is of letters, digits, '.', '_' and '-', and starts with a letter or a digit: what the specification takes
// for a network, a container and a plugin.
func IsName(s string) bool {
	other := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	return s != "" && !other(rune(s[0])) && !strings.ContainsFunc(s, func(r rune) bool { return other(r) && !strings.ContainsRune("_.-", r) })
}

// CheckIfName takes what Linux lets an interface's name be (dev_valid_name in net/core/dev.c). The error is of code 4.
func CheckIfName(s string) error {
	bad := s == "" || len(s) > 15 || s == "." || s == ".." ||
		strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == ':' || r == 0 || unicode.IsSpace(r) })
	if bad {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("%q is no interface name", s),
			"it must have 1 to 15 bytes, without '/', ':' and spaces")
	}
	return nil
}
