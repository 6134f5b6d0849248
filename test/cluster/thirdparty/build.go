package thirdparty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is where the programs of s are, or will be, below cache.
func (s Source) Dir(cache string) string {
	return filepath.Join(cache, "cluster", s.Name+"-"+s.Version, "bin")
}

// Bin is the folder of the programs of the source called name.
func Bin(cache, name string) string {
	for _, s := range Sources() {
		if s.Name == name {
			return s.Dir(cache)
		}
	}
	panic("no source is called " + name)
}

// Build builds what the cache lacks. It logs what it does; if the cache is full it does nothing and says nothing.
func Build(ctx context.Context, cache string, log func(format string, args ...any)) error {
	if err := os.MkdirAll(filepath.Join(cache, "cluster"), 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	for _, s := range Sources() {
		if err := s.build(ctx, cache, log); err != nil {
			return fmt.Errorf("build %s %s: %w", s.Name, s.Version, err)
		}
	}
	return nil
}

// build takes a lock, so that two runs that start together do not build the same, and renames the finished folder into
// place, so that a cut off build is none.
func (s Source) build(ctx context.Context, cache string, log func(string, ...any)) error {
	bin := s.Dir(cache)
	dir := filepath.Dir(bin)
	if exists(bin) {
		return nil
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if exists(bin) {
		return nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("a Go toolchain is needed: %w", err)
	}
	work := dir + ".build"
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(filepath.Join(work, "bin"), 0o755)); err != nil {
		return err
	}
	start := time.Now()
	log("%s %s: downloading its module", s.Name, s.Version)
	if err := writeModule(ctx, work, s); err != nil {
		return err
	}
	if err := s.compile(ctx, work, log); err != nil {
		return err
	}
	for from, to := range s.Rename {
		if err := os.Rename(filepath.Join(work, "bin", from), filepath.Join(work, "bin", to)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(work, dir)); err != nil {
		return err
	}
	log("%s %s: built in %s", s.Name, s.Version, time.Since(start).Round(time.Second))
	return nil
}

func (s Source) compile(ctx context.Context, work string, log func(string, ...any)) error {
	var packages []string
	for _, p := range s.Packages {
		packages = append(packages, path.Join(s.Module, p))
	}
	// go list also downloads the modules that are needed, which the build would do without a word.
	log("%s %s: downloading the modules it needs", s.Name, s.Version)
	listed, err := goTool(ctx, work, append([]string{"list", "-mod=mod", "-deps", "-tags", s.Tags}, packages...)...)
	if err != nil {
		return err
	}
	p := &progress{
		what:  fmt.Sprintf("%s %s", s.Name, s.Version),
		total: bytes.Count(listed, []byte("\n")),
		log:   log,
	}
	p.start()
	// With -trimpath, as the Makefile builds all: what this repository's tests have compiled is taken from Go's cache.
	args := []string{
		"build", "-mod=mod", "-buildvcs=false", "-trimpath", "-v",
		"-tags", s.Tags, "-ldflags", "-s -w " + s.LDFlags, "-o", filepath.Join(work, "bin") + "/",
	}
	cmd := goCommand(ctx, work, append(args, packages...)...)
	cmd.Stdout, cmd.Stderr = io.Discard, p
	err = cmd.Run()
	p.stop()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, p.messages())
	}
	return nil
}

// lock waits for the lock file path, which stays.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
