package cni

import (
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// misread are the words by which containerd takes an error of DEL for success: the second ones where the sandbox has no
// network namespace any more.
var misread = [][]string{{"not", "found"}, {"no", "such", "file", "or", "directory"}}

// DelError is e in words that no container runtime takes for success. It would forget a sandbox whose addresses and devices
// are still held, and never come again: "not found" becomes "not-found".
func DelError(e *types.Error) *types.Error {
	if e == nil {
		return nil
	}
	return &types.Error{Code: e.Code, Msg: hyphenate(e.Msg), Details: hyphenate(e.Details)}
}

// hyphenate writes the misread words with hyphens for what is between them, in small letters.
func hyphenate(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		n := 1
		with := s[i : i+1]
		for _, words := range misread {
			if found := spelt(s[i:], words); found > 0 {
				n, with = found, strings.Join(words, "-")
			}
		}
		b.WriteString(with)
		i += n
	}
	return b.String()
}

// spelt is how long the words are at the start of s, in letters of any size and with any space between them; 0 if they are not.
func spelt(s string, words []string) int {
	rest := s
	for i, word := range words {
		if i > 0 {
			trimmed := strings.TrimLeft(rest, " \t\n\r\f\v")
			if trimmed == rest {
				return 0
			}
			rest = trimmed
		}
		if len(rest) < len(word) || !strings.EqualFold(rest[:len(word)], word) {
			return 0
		}
		rest = rest[len(word):]
	}
	return len(s) - len(rest)
}
