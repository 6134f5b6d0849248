package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked means that somebody else held the lock until the context ended.
var ErrLocked = errors.New("locked by another process")

// lockPoll is how often a waiting Lock looks again. flock(2) has no time limit of its own, and a goroutine blocked in it
// cannot be called back.
const lockPoll = 5 * time.Millisecond

// A Lock is one key's lock, held by this process until Unlock or its death. The file is opened close-on-exec, so a child
// never keeps the lock of a killed parent.
type Lock struct {
	file *os.File
	path string
}

// TryLock takes the lock of key if nobody has it; else the error wraps ErrLocked.
func (s Store) TryLock(key string) (*Lock, error) {
	path, err := s.lockPath(key)
	if err != nil {
		return nil, err
	}
	l, err := tryLock(path)
	if l == nil && err == nil {
		err = fmt.Errorf("%w: %s", ErrLocked, path)
	}
	return l, err
}

func (s Store) lockPath(key string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	return filepath.Join(s.Dir, key+".lock"), s.makeDir()
}

// Lock takes the lock of key, waiting until ctx ends; then the error wraps ErrLocked. An expired ctx still makes one try,
// so a context that is already done is a try-lock.
func (s Store) Lock(ctx context.Context, key string) (*Lock, error) {
	path, err := s.lockPath(key)
	if err != nil {
		return nil, err
	}
	for {
		l, err := tryLock(path)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s: %w", ErrLocked, path, context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}

// tryLock returns nil, nil if somebody else holds the lock.
func tryLock(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	// Its last holder may have removed the file between our open and our lock; then the lock is on a nameless file.
	if !sameFile(f, path) {
		return nil, f.Close()
	}
	return &Lock{file: f, path: path}, nil
}

func sameFile(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(held, named)
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error { return l.file.Close() }

// UnlockAndRemove gives the lock back and deletes its file: for keys that never come again, such as container ids.
func (l *Lock) UnlockAndRemove() error {
	return errors.Join(ignoreMissing(os.Remove(l.path)), l.file.Close())
}
