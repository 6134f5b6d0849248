// Package watch follows folders for who looks at them from time to time anyway. Where the kernel has no watches left, of which all
// of a user's programs have 128 in common, that is all there is.
package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/fsnotify/fsnotify"
)

// Folders watches some. The zero value watches nothing yet.
type Folders struct {
	Log *slog.Logger

	watcher *fsnotify.Watcher
	said    string
}

// Add watches folders, again each time: one that was removed and made anew is another inode. What cannot be watched is said once,
// and tried again with the next Add. A folder that is not there is no fault.
func (f *Folders) Add(folders ...string) {
	err := f.add(folders)
	if said := fmt.Sprint(err); said != f.said {
		f.said = said
		if err != nil {
			f.Log.Warn("Cannot watch folders; looking at them from time to time", "folders", folders, "err", err)
		}
	}
}

func (f *Folders) add(folders []string) (err error) {
	if f.watcher == nil {
		if f.watcher, err = fsnotify.NewWatcher(); err != nil {
			f.watcher = nil
			return fmt.Errorf("%w (is fs.inotify.max_user_instances used up?)", err)
		}
	}
	for _, folder := range folders {
		if addErr := f.watcher.Add(folder); addErr != nil && !errors.Is(addErr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("watch %s: %w", folder, addErr))
		}
	}
	return err
}

// Events is where changes come; it blocks for ever while nothing is watched.
func (f *Folders) Events() <-chan fsnotify.Event {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Events
}

// Errors is where it comes that changes were missed.
func (f *Folders) Errors() <-chan error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Errors
}

// Close ends it.
func (f *Folders) Close() {
	if f.watcher != nil {
		_ = f.watcher.Close()
	}
}
