package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Others lists a path for each network namespace, other than the caller's own, that a process is in or that is mounted
// somewhere, as the proc file system below root shows them. A namespace that only a socket or an open file keeps is not
// among them. What cannot be read is passed over and named in the error, which comes with the rest.
func Others(root string) ([]string, error) {
	proc := filepath.Join(root, "proc")
	own, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	seen := map[string]bool{own: true}
	var paths []string
	add := func(name, path string) {
		if !seen[name] {
			seen[name] = true
			paths = append(paths, path)
		}
	}
	var errs []error
	mounts, err := readMounts(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		errs = append(errs, fmt.Errorf("list mounted network namespaces: %w", err))
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`) // what the kernel does to blanks
	for line := range strings.Lines(string(mounts)) {
		// id, parent, device, root, mount point, …: a namespace's root is its name, such as net:[4026532281].
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[3], "net:[") {
			add(f[3], unescape.Replace(f[4]))
		}
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		errs = append(errs, fmt.Errorf("list processes: %w", err))
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		path := filepath.Join(proc, e.Name(), "ns/net")
		// No link: it ended meanwhile, or is a kernel's.
		if name, err := os.Readlink(path); err == nil {
			add(name, path)
		}
	}
	return paths, errors.Join(errs...)
}

// readMounts reads mountinfo until it is twice the same, and gives all that it saw: the kernel hands it out page by page,
// and leaves lines out when something is unmounted in between. What is gone by then does no harm.
func readMounts(path string) (all []byte, err error) {
	var last []byte
	for range 10 {
		mounts, err := os.ReadFile(path)
		if err != nil {
			return all, err
		}
		if last != nil && bytes.Equal(mounts, last) {
			break
		}
		all, last = append(all, mounts...), mounts
	}
	return all, nil
}
