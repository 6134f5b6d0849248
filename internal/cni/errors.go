package cni

import (
	"regexp"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// misread are the words by which containerd takes an error of DEL for success: the second ones where the sandbox has no
// network namespace any more.
const misread = `(?i)not\s+found|no\s+such\s+file\s+or\s+directory`

// DelError is e in words that no container runtime takes for success. It would forget a sandbox whose addresses and devices
// are still held, and never come again: "not found" becomes "not-found".
func DelError(e *types.Error) *types.Error {
	if e == nil {
		return nil
	}
	words := regexp.MustCompile(misread) // here, since few calls need it and all would wait for it
	hyphenate := func(s string) string {
		return words.ReplaceAllStringFunc(s, func(found string) string { return strings.Join(strings.Fields(strings.ToLower(found)), "-") })
	}
	return &types.Error{Code: e.Code, Msg: hyphenate(e.Msg), Details: hyphenate(e.Details)}
}
