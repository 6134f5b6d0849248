package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// persistSize is the size of a new disk. The file is sparse, and the guest's discards make it so again.
const persistSize = 16 << 30

// persistDisk returns the image of /persist, made when missing. It is a disk with a file system of its own, and not a
// folder over 9p: what persists is what a node has, so fsync, rename, locks, ownership and overlay mounts on it must
// be the kernel's real ones.
func persistDisk(ctx context.Context, c Config, t tools) (string, error) {
	path := filepath.Join(c.Persist, "disk.img")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(c.Persist, 0o755); err != nil {
		return "", fmt.Errorf("make the disk that persists: %w", err)
	}
	tmp := path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return "", fmt.Errorf("make the disk that persists: %w", err)
	}
	if err := errors.Join(f.Truncate(persistSize), f.Close()); err != nil {
		return "", fmt.Errorf("make the disk that persists: %w", err)
	}
	// The file is new, so its tables are zero already: nobody needs to write them.
	cmd := exec.CommandContext(ctx, t.path["mkfs.ext4"], "-q", "-F", "-E", "assume_storage_prezeroed=1,root_owner=0:0", "-m", "0", tmp)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the disk that persists: mkfs.ext4 %s: %w: %s", tmp, err, out)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("make the disk that persists: %w", err)
	}
	return path, nil
}
