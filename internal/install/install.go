// Package install puts this project's CNI plugins into a node's plugin folder and takes them out again.
//
// A runtime may start the plugin at any moment, so at any moment the folder holds a whole one: a new one is written
// under another name and renamed over the old. That also works while the old one runs, where writing into the file
// would fail with "text file busy".
//
// In the folder, for a plugin NAME:
//
//	NAME                  the plugin
//	NAME.viaduct-saved    a plugin of another project that was there before; uninstall puts it back
//	.NAME.viaduct-tmp     a temporary file; its name is fixed, so a killed install leaves one at most
package install

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Module is the module path in the build information of every program of this project. It tells ours from others.
const Module = "github.com/viaduct-sriov/viaduct"

// Plugins maps each plugin's name in the plugin folder, which is its "type" in a network configuration, to the name of
// the program that it is installed from. vfctl is no plugin: whoever has to look after the node finds it beside them.
var Plugins = map[string]string{
	"sriov":    "sriov-cni",
	"meta-cni": "meta-cni",
	"vfctl":    "vfctl",
}

// What Install and Uninstall can answer besides the file system's own errors; test with errors.Is.
var (
	// ErrUnknown means that this project has no plugin of that name.
	ErrUnknown = errors.New("unknown plugin")
	// ErrNotOurs means that the file to install is no program of this project.
	ErrNotOurs = errors.New("not a program of this project")
)

// An Outcome says what an operation found and did, in words for a log.
type Outcome string

// The outcomes.
const (
	Unchanged  Outcome = "was up to date already"
	Installed  Outcome = "installed"
	Upgraded   Outcome = "replaced another version"
	Superseded Outcome = "installed; the plugin of another project that was there is saved beside it"
	Absent     Outcome = "was not there"
	Removed    Outcome = "removed"
	Restored   Outcome = "removed; the plugin of another project that was there before is back"
	LeftAlone  Outcome = "left alone: it is a plugin of another project"
)

// A Folder is a CNI plugin folder, such as /opt/cni/bin. It is made if it is missing.
type Folder string

func (d Folder) plugin(name string) string { return filepath.Join(string(d), name) }
func (d Folder) saved(name string) string  { return filepath.Join(string(d), name+".viaduct-saved") }

func (d Folder) temp(name string) string { return filepath.Join(string(d), "."+name+".viaduct-tmp") }

// An Owner says whose a plugin in the folder is.
type Owner string

// The owners.
const (
	Ours        Owner = "ours"
	Theirs      Owner = "another project's"
	Overwritten Owner = "another project's, put over ours"
	Nobodys     Owner = "not installed"
)

// Whose says whose the plugin name is now. What was ours until another project's installer came is known by the plugin that
// Install has saved.
func (d Folder) Whose(name string) Owner {
	ours, err := isOurs(d.plugin(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Nobodys
	case err == nil && ours:
		return Ours
	}
	if _, err := os.Lstat(d.saved(name)); err == nil {
		return Overwritten
	}
	return Theirs
}

// Has reports whether anything of the plugin name is in the folder: itself, or another project's that Install has saved.
func (d Folder) Has(name string) bool {
	return slices.ContainsFunc([]string{d.plugin(name), d.saved(name)}, func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	})
}

// Install makes the plugin name a copy of the file source, mode 0755. A plugin of another project is saved first. Two
// installs into one folder wait for each other, until ctx ends.
func (d Folder) Install(ctx context.Context, name, source string) (Outcome, error) {
	if Plugins[name] == "" {
		return "", fmt.Errorf("install %q: %w", name, ErrUnknown)
	}
	ours, err := isOurs(source)
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	if !ours {
		return "", fmt.Errorf("install %s from %s: %w", name, source, ErrNotOurs)
	}
	if err = os.MkdirAll(string(d), 0o755); err != nil {
		return "", fmt.Errorf("make the plugin folder: %w", err)
	}
	var outcome Outcome
	err = d.locked(ctx, func() error {
		outcome, err = d.install(name, source)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("install %s into %s: %w", name, d, Denied(string(d), err))
	}
	return outcome, nil
}

// Denied says what to do if err is that the folder dir may not be written. Our containers are root without a capability: that
// root may write where any other user with its id may, and no more.
func Denied(dir string, err error) error {
	var info unix.Stat_t
	if !errors.Is(err, fs.ErrPermission) || unix.Stat(dir, &info) != nil {
		return err
	}
	return fmt.Errorf("%w; the folder is of user %d, with mode %04o: on the node give it to root, or deploy with conf/overlays/dac-override (Helm: dacOverride=true); if it is root's, see conf/overlays/selinux",
		err, info.Uid, info.Mode&0o7777)
}

func (d Folder) install(name, source string) (Outcome, error) {
	dest := d.plugin(name)
	outcome := Upgraded
	switch ours, err := isOurs(dest); {
	case errors.Is(err, fs.ErrNotExist):
		outcome = Installed
	case err != nil:
		return "", err
	case ours:
		same, sameErr := identical(source, dest)
		if sameErr != nil {
			return "", sameErr
		}
		if same {
			return Unchanged, nil
		}
	default:
		if err := d.copy(name, dest, d.saved(name)); err != nil {
			return "", fmt.Errorf("save the plugin of another project: %w", err)
		}
		outcome = Superseded
	}
	return outcome, d.copy(name, source, dest)
}

// Uninstall removes the plugin name if it is ours, and puts back what Install saved, also if ours is gone already. Anything else
// that goes by that name is left alone; it is what the node has then, so what Install saved before is removed. To do it again
// does nothing, and after a kill anywhere it does the rest.
func (d Folder) Uninstall(ctx context.Context, name string) (Outcome, error) {
	if Plugins[name] == "" {
		return "", fmt.Errorf("uninstall %q: %w", name, ErrUnknown)
	}
	var outcome Outcome
	err := d.locked(ctx, func() (err error) {
		outcome, err = d.uninstall(name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return Absent, nil
	}
	if err != nil {
		return "", fmt.Errorf("uninstall %s from %s: %w", name, d, err)
	}
	return outcome, nil
}

func (d Folder) uninstall(name string) (Outcome, error) {
	dest := d.plugin(name)
	ours, err := isOurs(dest)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return "", err
	}
	if !ours && !missing {
		if _, err := os.Lstat(d.saved(name)); err == nil && !isProgram(dest) {
			return "", fmt.Errorf("%s is no program, or a part of one: it may be all that is left of another project's. Put that in place again, or %s, which was there before; then try again", dest, d.saved(name))
		}
		if err := os.Remove(d.saved(name)); err != nil {
			return LeftAlone, ignoreMissing(err)
		}
		return LeftAlone, d.sync()
	}
	err = os.Rename(d.saved(name), dest)
	if err == nil {
		return Restored, d.sync()
	}
	if missing || !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.Remove(dest); err != nil {
		return "", err
	}
	return Removed, d.sync()
}

// locked runs f while no other install or uninstall works in the folder. The lock is on the folder itself, so nothing is
// left behind.
func (d Folder) locked(ctx context.Context, f func() error) error {
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", d, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: another install holds it: %w", d, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// copy makes to a copy of from, whole or not at all, and lasting.
func (d Folder) copy(name, from, to string) error {
	temp := d.temp(name)
	if err := writeCopy(from, temp); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	if err := os.Rename(temp, to); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return d.sync()
}

func writeCopy(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// A killed install may have left one, of any mode; O_EXCL follows no link.
	if err = ignoreMissing(os.Remove(to)); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(0o755) // whatever the umask is
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func (d Folder) sync() error {
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// isOurs reports whether the file at path is a program of this project. A file that is no Go program, or not even a
// program, is not.
func isOurs(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s is no regular file: %s", path, info.Mode().Type())
	}
	// An error of ReadFile only says what kind of file it is not.
	bi, err := buildinfo.ReadFile(path)
	return err == nil && bi.Main.Path == Module, nil
}

// isProgram reports whether the file at path can be run: whole, if it says how long it is.
func isProgram(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var start [2]byte
	if _, err := f.ReadAt(start[:], 0); err == nil && string(start[:]) == "#!" {
		return true
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return int64(p.Off+p.Filesz) > info.Size() })
}

// identical reports whether b is what a copy of a would be.
func identical(a, b string) (bool, error) {
	info, err := os.Lstat(b)
	if err != nil {
		return false, err
	}
	if info.Mode() != 0o755 {
		return false, nil
	}
	contentA, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	contentB, err := os.ReadFile(b)
	if err != nil {
		return false, err
	}
	return bytes.Equal(contentA, contentB), nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
