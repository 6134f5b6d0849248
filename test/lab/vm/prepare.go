package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// parts are what a boot needs and Prepare provides.
type parts struct {
	tools     tools
	kernel    kernel
	initramfs string
	accel     accel
}

// prepare makes sure of all parts, one after the other, each only if it is missing. It holds a lock, so of two at the
// same time one does the work and the other finds it done.
func prepare(ctx context.Context, c Config) (_ parts, err error) {
	dir := filepath.Join(c.Cache, "lab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"), c.Log)
	if err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	var p parts
	if p.tools, err = findOrInstall(ctx, c); err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	if p.kernel, err = findOrUnpackKernel(ctx, c, p.tools); err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	if p.initramfs, err = initramfs(ctx, c, p.kernel, p.tools); err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	if p.accel, err = findAccel(ctx, c, p); err != nil {
		return parts{}, fmt.Errorf("prepare the lab: %w", err)
	}
	return p, nil
}

// prepareUntil is prepare that a signal on its way to the command ends, too.
func prepareUntil(ctx context.Context, c Config) (parts, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case sig := <-c.Signals:
			cancel(fmt.Errorf("got the signal %s", sig))
		case <-ctx.Done():
		}
	}()
	return prepare(ctx, c)
}

// lock takes an exclusive lock on a file of its own, which the kernel drops when the holder dies.
func lock(ctx context.Context, path string, log func(string, ...any)) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	for said := false; ; said = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !said {
			log("waiting for another preparation of the lab to end")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock %s: %w", path, context.Cause(ctx)), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// writeFile puts a file in place whole or not at all.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
