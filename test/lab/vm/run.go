package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// run is one call of Run: the folder that carries the job into the guest, and what to do afterwards.
type run struct {
	c       Config
	parts   parts
	folder  string
	lock    *os.File // on folder
	machine machine
	returns map[string]string // host path that the guest's file becomes, to its name in the return share
	tty     *terminal
}

func newRun(ctx context.Context, c Config, p parts, argv []string) (_ *run, err error) {
	if strings.Contains(argv[0], "/") && filepath.IsAbs(argv[0]) {
		if err := checkVisible(argv[0]); err != nil {
			return nil, fmt.Errorf("run %s in the lab: %w", argv[0], err)
		}
	}
	r := &run{c: c, parts: p, machine: machine{kernel: p.kernel.image(), accel: p.accel}}
	if r.folder, r.lock, err = makeRunFolder(c.Cache); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	job := wire.Job{
		Argv: argv, Dir: c.Dir, Kernel: p.kernel.root, Env: environ(os.Environ(), c.Env, c.Dir),
		Modules: c.modules(), VFs: c.VFs, OneOutput: sameWriter(c.Stdout, c.Stderr), Persist: c.Persist != "",
	}
	if err := r.share(&job); err != nil {
		return nil, err
	}
	if c.Persist != "" {
		if r.machine.disk, err = persistDisk(ctx, c, p.tools); err != nil {
			return nil, err
		}
	}
	if c.TTY {
		if r.tty, err = openTerminal(c.Stdin); err != nil {
			return nil, err
		}
		job.TTY = true
		job.Rows, job.Cols = r.tty.size()
	}
	return r, r.writeJob(job)
}

// modules are the drivers that udev would have loaded on a node. 9p for the shares is in the initramfs.
func (c Config) modules() []string {
	var m []string
	if c.PFs > 0 {
		m = append(m, "igb", "igbvf")
	}
	if c.Uplink {
		m = append(m, "virtio_net")
	}
	return m
}

// share sets up what the guest's writes go to: /artefacts, the folders that the command's arguments and GOCOVERDIR
// name for output (under their own path), and the folder for single files.
func (r *run) share(job *wire.Job) error {
	out := outputs(job.Argv, job.Env, r.c.Dir)
	add := func(tag, guest, host string) {
		r.machine.shares = append(r.machine.shares, hostShare{wire.Share{Tag: tag, Guest: guest}, host})
		job.Shares = append(job.Shares, wire.Share{Tag: tag, Guest: guest})
	}
	if r.c.Artefacts != "" {
		add("artefacts", "/artefacts", r.c.Artefacts)
	}
	for i, dir := range out.dirs {
		add("out"+strconv.Itoa(i), dir, dir)
	}
	if len(out.files) > 0 {
		add(wire.ReturnTag, wire.ReturnDir, filepath.Join(r.folder, "return"))
		job.Return, r.returns = map[string]string{}, map[string]string{}
		for i, file := range out.files {
			job.Return[file], r.returns[file] = strconv.Itoa(i), strconv.Itoa(i)
		}
	}
	for _, s := range r.machine.shares {
		if err := os.MkdirAll(s.host, 0o755); err != nil {
			return fmt.Errorf("share %s with the guest: %w", s.host, err)
		}
	}
	return nil
}

// writeJob puts into the run's folder: the job, this program as the guest's init, and the initramfs that names both.
func (r *run) writeJob(job wire.Job) error {
	raw, err := json.MarshalIndent(job, "", "  ")
	if err != nil {
		return fmt.Errorf("write the job: %w", err)
	}
	jobPath, initPath := filepath.Join(r.folder, "job.json"), filepath.Join(r.folder, wire.GuestProgram)
	archive, err := jobArchive(initPath, jobPath)
	if err != nil {
		return fmt.Errorf("write the job: %w", err)
	}
	base, err := os.ReadFile(r.parts.initramfs)
	if err != nil {
		return fmt.Errorf("write the job: %w", err)
	}
	// The kernel wants an archive to start at a multiple of 4 bytes; zeros between two are skipped.
	base = append(base, make([]byte, (4-len(base)%4)%4)...)
	r.machine.initramfs = filepath.Join(r.folder, "initramfs")
	return errors.Join(
		os.WriteFile(jobPath, raw, 0o600),
		copySelf(initPath),
		os.WriteFile(r.machine.initramfs, append(base, archive...), 0o600))
}

// copySelf: the file that this program came from may be rebuilt while the machine runs.
func copySelf(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy this program for the guest: %w", err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("copy this program for the guest: %w", err)
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copy this program for the guest: %w", err)
	}
	return nil
}

// run boots, once more if need be, and carries the command through.
func (r *run) run(ctx context.Context) (int, error) {
	const attempts = 2
	var err error
	for n := range attempts {
		r.machine.verbose = n > 0
		b := &boot{run: r, console: newConsole(r.c.Console)}
		var exit int
		exit, err = b.attempt(ctx)
		if !errors.Is(err, ErrBoot) || ctx.Err() != nil {
			return exit, errors.Join(err, r.fetch())
		}
		r.c.Log("boot %d of %d failed: %v", n+1, attempts, err)
		r.c.Log("its console:\n%s", b.console.tail())
	}
	return 0, err
}

// fetch moves the files that came back to where the command meant to write them.
func (r *run) fetch() error {
	var errs []error
	for path, name := range r.returns {
		raw, err := os.ReadFile(filepath.Join(r.folder, "return", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(path, raw, 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bring %s back from the guest: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func (r *run) close() error {
	if err := errors.Join(os.RemoveAll(r.folder), r.lock.Close()); err != nil {
		return fmt.Errorf("clean up after the lab: %w", err)
	}
	return nil
}

// sweepAge keeps the sweep off a folder that is made just now and not locked yet.
const sweepAge = time.Minute

// makeRunFolder also removes what runs left behind that were killed: a run holds a lock on its folder as long as it
// lives. A process id would not do, because runs in containers share the cache.
func makeRunFolder(cache string) (dir string, locked *os.File, err error) {
	all := filepath.Join(cache, "lab", "run")
	if err := os.MkdirAll(all, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the run's folder: %w", err)
	}
	old, err := os.ReadDir(all)
	if err != nil {
		return "", nil, fmt.Errorf("make the run's folder: %w", err)
	}
	for _, entry := range old {
		info, gone := entry.Info()
		if gone != nil || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		path := filepath.Join(all, entry.Name())
		if f, err := lockFolder(path); err == nil {
			_ = os.RemoveAll(path) // the next run tries again
			_ = f.Close()
		}
	}
	if dir, err = os.MkdirTemp(all, ""); err != nil {
		return "", nil, fmt.Errorf("make the run's folder: %w", err)
	}
	if locked, err = lockFolder(dir); err != nil {
		return "", nil, fmt.Errorf("make the run's folder: %w", err)
	}
	return dir, locked, nil
}

// lockFolder fails at once when another holds it.
func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// sameWriter says whether both go to the same place: then the guest keeps the order of what is written to them.
func sameWriter(a, b io.Writer) bool {
	fa, ok := a.(*os.File)
	fb, ok2 := b.(*os.File)
	if !ok || !ok2 {
		return false
	}
	sa, err := fa.Stat()
	if err != nil {
		return false
	}
	sb, err := fb.Stat()
	return err == nil && os.SameFile(sa, sb)
}

// bootTimeout: 2 minutes on an idle machine, in proportion to the load on a busy one.
func (c Config) bootTimeout(loadPerCPU float64) time.Duration {
	if c.BootTimeout > 0 {
		return c.BootTimeout
	}
	return time.Duration(float64(2*time.Minute) * min(max(1, loadPerCPU), 5))
}
