// Package kernellog reads the messages of the kernel that it runs on: where a driver says what it did not like.
package kernellog

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Tail is the last lines of the log, each indented by two spaces; what keeps it from being read, else.
func Tail(lines int) string {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	buf := make([]byte, 64<<10)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		return fmt.Sprintf("  (the kernel's log: %v)", err)
	}
	all := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	return "  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")
}
