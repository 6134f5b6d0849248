// Package netns opens network namespaces, tells them apart, and makes sockets in them.
//
// setns(2) changes one thread, not a process. Nothing here leaves a thread of the caller's in another namespace: what has
// to be done inside one is done on a thread of its own that ends with it, and a socket that was opened there works from
// every thread.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone means that a path leads to no network namespace: it is missing, or a plain file whose mount has gone.
var ErrGone = errors.New("no such network namespace")

// nsfsMagic is what statfs(2) says of a namespace file.
const nsfsMagic = 0x6e736673

// answerTimeout is how long to wait for a netlink answer. The kernel carries a request out before send returns, however long
// the driver takes for it, and no timeout cuts that short: the answer is there by then, but for one that got lost.
const answerTimeout = 30 * time.Second

// A Netns is one open network namespace. It lives at least as long as it is open. It is for one goroutine at a time.
type Netns struct {
	file    *os.File
	path    string
	current bool // it is the process's own, so every thread is in it
	route   int  // a socket; 0: none yet
}

// An ID tells one network namespace from another. The kernel gives inode numbers out again, a cookie never within one
// boot; kernels before 5.14 have no cookie, and it is 0.
type ID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Cookie uint64 `json:"cookie,omitempty"`
}

// Open opens the namespace at path, such as /run/netns/x or /proc/1234/ns/net. The error wraps ErrGone if there is none.
func Open(path string) (*Netns, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // nobody has to write to a pipe that is there instead
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrGone, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace %s: %w", path, err), f.Close())
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), f.Close())
	case !info.Mode().IsRegular():
		return nil, errors.Join(fmt.Errorf("open network namespace: %s is none, but %s", path, info.Mode()), f.Close())
	case st.Type != nsfsMagic:
		// What is left of a bind mount after the namespace was unmounted.
		return nil, errors.Join(fmt.Errorf("%w: %s is a plain file", ErrGone, path), f.Close())
	}
	return &Netns{file: f, path: path}, nil
}

// Current opens the namespace that the caller is in, which is the process's own but for threads that were left elsewhere.
func Current() (*Netns, error) {
	n, err := Open("/proc/thread-self/ns/net") // not self: a main thread that was left in another namespace stays there
	if err != nil {
		return nil, err
	}
	n.current = true
	return n, nil
}

// Close gives the namespace back, and closes the socket that Route gave. To close it again does nothing.
func (n *Netns) Close() error {
	var err error
	if n.route != 0 {
		err = unix.Close(n.route)
		n.route = 0 // the number may be another file's from now on
	}
	if closed := n.file.Close(); !errors.Is(closed, fs.ErrClosed) {
		err = errors.Join(err, closed)
	}
	return err
}

// Path is what the namespace was opened by.
func (n *Netns) Path() string { return n.path }

// Fd is the namespace's file descriptor, for IFLA_NET_NS_FD and setns; it is valid until Close.
func (n *Netns) Fd() int { return int(n.file.Fd()) }

// ID reads the namespace's identity.
func (n *Netns) ID() (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.Fd(), &st); err != nil {
		return ID{}, fmt.Errorf("identify network namespace %s: %w", n.path, err)
	}
	id := ID{Device: st.Dev, Inode: st.Ino}
	// A socket knows the cookie of the namespace that it was made in.
	s, err := n.Route()
	if err != nil {
		return ID{}, err
	}
	id.Cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return ID{}, fmt.Errorf("identify network namespace %s: %w", n.path, err)
	}
	return id, nil
}

// Do runs fn on a thread inside the namespace and returns its error. fn must not start goroutines that expect to be in
// there, too. The thread is thrown away, so that nothing else can ever run in the wrong namespace on it.
func (n *Netns) Do(fn func() error) error {
	if n.current {
		return fn()
	}
	return onThread(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.path, err)
		}
		return fn()
	})
}

// onThread runs fn on a thread that ends with it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			// But not the main thread: Go parks it for good, and it would keep a namespace alive that nobody else is in.
			// As this goroutine holds it, the next one runs on another.
			defer runtime.UnlockOSThread()
			done <- onThread(fn)
			return
		}
		done <- fn()
	}()
	return <-done
}

// Route gives an rtnetlink socket in the namespace, the same every time; it is closed with the Netns. To receive from it
// takes 30 seconds at most; to send takes as long as the kernel needs to do what is asked. The kernel's own words come with
// the errors of requests sent over it.
func (n *Netns) Route() (int, error) {
	if n.route != 0 {
		return n.route, nil
	}
	err := n.Do(func() (err error) {
		n.route, err = routeSocket()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open a netlink socket in %s: %w", n.path, err)
	}
	return n.route, nil
}

func routeSocket() (int, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	limit := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptInt(s, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
	)
	if err != nil {
		return 0, errors.Join(err, unix.Close(s))
	}
	return s, nil
}

// WriteSetting writes a file of /proc/sys/net, which shows the settings of the namespace that the calling thread is in. It takes
// a value with one write, and cannot be created: the error wraps fs.ErrNotExist where there is no such setting.
func WriteSetting(path string, value []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(value)
	return errors.Join(err, f.Close())
}
