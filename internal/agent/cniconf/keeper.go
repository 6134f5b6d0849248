package cniconf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agent/watch"
	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

// A Keeper keeps our file right: it appears when meta-cni and the default network are there, follows the default
// network's file, and is put back when something moves or removes it. It is never removed here: a node without it would
// start pods without their networks, or not at all.
type Keeper struct {
	// ConfDir and BinDir are the runtime's, such as /etc/cni/net.d and /opt/cni/bin.
	ConfDir, BinDir string
	Log             *slog.Logger
	// Default finds the node's own network; nil: Find does, in ConfDir.
	Default func() (Default, error)
	// Changed, unless nil, has an element when Default may find another one.
	Changed <-chan struct{}
	// ReadyFile, unless empty, is there when the node's own network is ready: ours is not written before.
	ReadyFile string
	// Options go into our file.
	Options Options
	// Settle and Period replace, if not 0, how long a change rests before it is looked at (200 ms), and how often the
	// folder is looked at without a change (30 s).
	Settle, Period time.Duration

	last []byte // what our file had in it when it was looked at last; nil: it was not ours to know
	from string // the file that it was made of

	mu       sync.Mutex
	looked   bool
	err      error
	writes   int
	restored int
	said     string
	over     []string        // plugins of ours that another project has replaced
	ours     map[string]bool // plugins that were seen to be ours
}

// Err says what keeps our file from being in place; nil if nothing does. Before the first look that is not known.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.looked {
		return ErrNotLooked
	}
	return k.err
}

// Writes counts how often the file was written.
func (k *Keeper) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// Restored counts how often our file was put back because somebody had removed or changed it. It is in place again each time, so
// nothing else tells that pods which started meanwhile lack their networks.
func (k *Keeper) Restored() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.restored
}

// Overwritten lists plugins of ours that another project's installer has replaced, as they were found last.
func (k *Keeper) Overwritten() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.over)
}

// Run watches both folders until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	settle, period := k.Settle, k.Period
	if settle == 0 {
		settle = 200 * time.Millisecond
	}
	if period == 0 {
		period = 30 * time.Second
	}
	watcher := &watch.Folders{Log: k.Log}
	defer watcher.Close()
	for {
		watcher.Add(k.ConfDir, k.BinDir)
		k.Reconcile()
		if !k.wait(ctx, watcher, settle, period) {
			return nil
		}
	}
}

// wait returns when something happened and the folders then rested, or when the period is over. Two components that fight
// over one file get no more than one write a settle out of us.
func (k *Keeper) wait(ctx context.Context, watcher *watch.Folders, settle, period time.Duration) bool {
	timer := time.NewTimer(period)
	defer timer.Stop()
	changed := false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-watcher.Events():
		case <-k.Changed:
		case err := <-watcher.Errors(): // an overflow
			k.Log.Warn("Missed changes of the CNI folders; looking at all of them", "err", err)
			return true
		}
		if !changed {
			changed = true
			timer.Reset(settle)
		}
	}
}

// Reconcile looks once, and does what is to be done.
func (k *Keeper) Reconcile() {
	wrote, skipped, err := k.reconcile()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked, k.err = true, err
	if wrote != "" {
		k.writes++
		k.Log.Info("Wrote the node's CNI configuration", "file", filepath.Join(k.ConfDir, FileName), "defaultNetwork", wrote)
	}
	k.over = k.overwritten()
	// Say each state once, not at every look.
	said := fmt.Sprint(err, skipped, k.over)
	if said != k.said {
		k.said = said
		for _, path := range k.over {
			k.Log.Warn("Another project has put its plugin over ours, and will again: delete its DaemonSet, then restart ours", "file", path)
		}
		for _, s := range skipped {
			k.Log.Warn("Passed over a CNI configuration", "err", s)
		}
		if err != nil {
			k.Log.Warn("The node's CNI configuration is not in place", "err", err)
		}
	}
}

func (k *Keeper) reconcile() (wrote string, skipped []error, err error) {
	info, err := os.Stat(filepath.Join(k.BinDir, Plugin))
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", nil, fmt.Errorf("%w in %s", ErrNoPlugin, k.BinDir)
	}
	d, skipped, err := k.find()
	if err == nil {
		err = k.passedOver(d, skipped)
	}
	if err != nil {
		return "", skipped, errors.Join(err, k.restore())
	}
	want, err := Render(d, k.Options)
	if err != nil {
		return "", skipped, err
	}
	have, err := os.ReadFile(filepath.Join(k.ConfDir, FileName))
	if err != nil || !bytes.Equal(have, want) {
		if err := write(k.ConfDir, want); err != nil {
			return "", skipped, err
		}
		wrote = d.File
		if k.last != nil && !bytes.Equal(have, k.last) {
			k.tookAway()
		}
	}
	k.last, k.from = want, d.File
	return wrote, skipped, k.checkFirst()
}

// passedOver refuses another default network while the file of the one that pods have is there, before it, and cannot be read: it
// is being written, or broken. Without us the runtime would start no pod then; with us they must not start in another network.
func (k *Keeper) passedOver(d Default, skipped []error) error {
	switch {
	case k.Default != nil:
		return nil
	case k.from == "": // the first look: what the pods of before have is in our file
		if len(skipped) > 0 && k.isOfAnother(d) {
			return fmt.Errorf("%w: %s was made of another network than %s, and stays as it is until what comes before that is mended or removed: %w",
				ErrNoDefault, FileName, d.File, errors.Join(skipped...))
		}
		return nil
	case d.File <= k.from:
		return nil
	}
	if _, err := os.Stat(filepath.Join(k.ConfDir, k.from)); err != nil {
		return nil //nolint:nilerr // it was removed: the next one is the default now
	}
	return fmt.Errorf("%w: %s, of which %s was made, cannot be read any more; %s stays as it is until that is mended or removed",
		ErrNoDefault, k.from, FileName, FileName)
}

// isOfAnother reports whether our file is there and was made of another network than d.
func (k *Keeper) isOfAnother(d Default) bool {
	type named struct{ Name string }
	var ours struct {
		Plugins []struct{ Delegates []named }
	}
	var now named
	data, err := os.ReadFile(filepath.Join(k.ConfDir, FileName))
	if err = errors.Join(err, json.Unmarshal(data, &ours), json.Unmarshal(d.List, &now)); err != nil {
		return false
	}
	return len(ours.Plugins) == 1 && len(ours.Plugins[0].Delegates) == 1 && ours.Plugins[0].Delegates[0] != now
}

// restore puts our file back as it was while it is not known what it should be. Without it the runtime would use another
// program's, and pods would start without their networks. Where there is no default network at all, the node is being taken apart.
func (k *Keeper) restore() error {
	if k.last == nil || k.Default == nil && k.ReadyFile == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(k.ConfDir, FileName)); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	k.tookAway()
	return write(k.ConfDir, k.last)
}

// tookAway counts somebody else's hand on our file. The first look is not one: another release may have left another file.
func (k *Keeper) tookAway() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.restored++
	k.Log.Warn("Another program had removed or changed the node's CNI configuration; pods that started meanwhile have the default network alone. With Cilium, set cni.exclusive=false",
		"file", filepath.Join(k.ConfDir, FileName))
}

func (k *Keeper) find() (d Default, skipped []error, err error) {
	if k.ReadyFile != "" {
		if _, err := os.Stat(k.ReadyFile); err != nil {
			return d, nil, fmt.Errorf("%w: the file that says so is not there: %w", ErrNotReady, err)
		}
	}
	if k.Default == nil {
		return Find(k.ConfDir)
	}
	if d, err = k.Default(); err != nil {
		return d, nil, fmt.Errorf("%w: %w", ErrNoDefault, err)
	}
	return d, nil, nil
}

// overwritten looks for plugins of ours that another project's installer has replaced. They are not fought for: who installs
// last would win every few seconds, and pods start in between. Where nothing was there before ours, nothing was saved; then
// only who has seen ours knows.
func (k *Keeper) overwritten() (paths []string) {
	if k.ours == nil {
		k.ours = map[string]bool{}
	}
	for _, name := range slices.Sorted(maps.Keys(install.Plugins)) {
		switch install.Folder(k.BinDir).Whose(name) {
		case install.Ours:
			k.ours[name] = true
		case install.Nobodys:
			delete(k.ours, name) // uninstalled
		case install.Theirs:
			if k.ours[name] {
				paths = append(paths, filepath.Join(k.BinDir, name))
			}
		case install.Overwritten:
			paths = append(paths, filepath.Join(k.BinDir, name))
		}
	}
	return paths
}

// checkFirst sees whether the runtime uses our file.
func (k *Keeper) checkFirst() error {
	paths, err := ondisk.List(k.ConfDir)
	if err != nil {
		return fmt.Errorf("list the CNI configurations: %w", err)
	}
	if len(paths) > 0 && filepath.Base(paths[0]) != FileName {
		return fmt.Errorf("the runtime uses %s, which comes before %s: rename it, or pods get no extra networks", paths[0], FileName)
	}
	return nil
}
