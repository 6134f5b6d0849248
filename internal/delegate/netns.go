package delegate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// A Netns is a network namespace by its path, and by what tells it from another one that is bound there later.
type Netns struct {
	Path  string `json:"path"`
	Dev   uint64 `json:"dev,omitempty"`
	Inode uint64 `json:"inode,omitempty"`
}

// openNetns looks at the namespace at path. The error is a *types.Error of code 4 or 8.
func openNetns(path string) (Netns, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return Netns{}, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_NETNS %q: want an absolute, clean path", path), "")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Netns{}, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("network namespace %s: %v", path, err), "")
	}
	// A name that is left when its bind mount is gone is an empty file: the sandbox is dead.
	if fs.Type != unix.NSFS_MAGIC {
		return Netns{}, types.NewError(types.ErrInvalidNetNS, path+" is no network namespace", "the sandbox may be gone")
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Netns{}, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("network namespace %s: %v", path, err), "")
	}
	return Netns{Path: path, Dev: st.Dev, Inode: st.Ino}, nil
}

// host reports whether n is the namespace that this process is in: attaching that would tear at the node itself.
func (n Netns) host() bool {
	own, err := openNetns("/proc/thread-self/ns/net")
	return err == nil && own.Dev == n.Dev && own.Inode == n.Inode
}

// alive reports whether the record's namespace is still the one at its path.
func (r *Record) alive() bool {
	if r.Boot != bootID() {
		return false // inode numbers of namespaces start anew with each boot
	}
	now, err := openNetns(r.Netns.Path)
	return err == nil && now == r.Netns
}

// dead reports whether the record's namespace is surely gone. What cannot be looked at is not dead: a sandbox that lives would
// lose its networks.
func (r *Record) dead() bool {
	if boot := bootID(); boot != r.Boot {
		return boot != ""
	}
	now, err := openNetns(r.Netns.Path)
	return err == nil && now != r.Netns || isGone(r.Netns.Path)
}

// livePath is the namespace for DEL: empty, as the specification has it, if it is gone. The old path could be another
// sandbox's by now.
func (r *Record) livePath() string {
	if r.alive() {
		return r.Netns.Path
	}
	return ""
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // no kernel that runs containers lacks it; "" equals itself
	}
	return strings.TrimSpace(string(data))
}
