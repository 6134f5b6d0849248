package pci

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A reader reads sysfs attributes. A scan of 16 PFs with 256 VFs each reads some 50,000 of them, and what that costs is
// system calls and the walk of paths. So it opens a function's folder once and names what is in it from there, reads each
// attribute by one call, without os.File (which would ask the runtime's poller about each), and gives equal names one
// string.
type reader struct {
	root folder
	buf  [4096]byte // an attribute is at most a page
	seen map[string]string
	ids  map[uint32]string
	// hosted is what sits on functions, where all of them are read; nil: it is looked for on each.
	hosted map[Address]*hosted
}

// A folder is an open folder; noDir is one that is not there, in which nothing is found.
type folder int

const noDir folder = -1

func newReader(root string) *reader {
	if root == "" {
		root = "/"
	}
	return &reader{root: open(unix.AT_FDCWD, root), seen: map[string]string{}, ids: map[uint32]string{}}
}

func (r *reader) close() { r.root.close() }

func open(at int, name string) folder {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return noDir
	}
	return folder(fd)
}

func (d folder) open(name string) folder { return open(int(d), name) }

func (d folder) close() {
	if d != noDir {
		_ = unix.Close(int(d)) // nothing was written
	}
}

func retry(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// function opens the folder of a PCI function.
func (r *reader) function(a Address) folder { return r.root.open(devicesDir + "/" + a.String()) }

// raw reads an attribute without the white space at its end, into a buffer that the next call overwrites. Nil, false: it
// is not there, or the driver refuses to say.
func (r *reader) raw(d folder, name string) ([]byte, bool) {
	fd, err := retry(func() (int, error) { return unix.Openat(int(d), name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, false
	}
	// sysfs gives all of an attribute to the first read that has room for a page.
	n, err := retry(func() (int, error) { return unix.Read(fd, r.buf[:]) })
	_ = unix.Close(fd) // nothing was written
	if err != nil {
		return nil, false
	}
	b := r.buf[:n]
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b, true
}

func (r *reader) text(d folder, name string) (string, bool) {
	b, ok := r.raw(d, name)
	return string(b), ok
}

func (r *reader) number(d folder, name string) (int, bool) {
	b, ok := r.raw(d, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(string(b))
	return n, err == nil
}

// hex reads an attribute such as 0x8086.
func (r *reader) hex(d folder, name string) (uint32, bool) {
	b, ok := r.raw(d, name)
	if !ok || len(b) < 3 || len(b) > 10 || b[0] != '0' || b[1] != 'x' {
		return 0, false
	}
	return parseHex(string(b[2:]))
}

// id is the four-digit form of a vendor or device id.
func (r *reader) id(v uint32) string {
	if s, ok := r.ids[v]; ok {
		return s
	}
	s := strconv.FormatUint(uint64(v), 16)
	s = strings.Repeat("0", max(0, 4-len(s))) + s
	r.ids[v] = s
	return s
}

// link is the last element of what a symbolic link points to; empty if there is none.
func (r *reader) link(d folder, name string) string {
	n, err := unix.Readlinkat(int(d), name, r.buf[:])
	if err != nil {
		return ""
	}
	target := string(r.buf[:n])
	return target[strings.LastIndexByte(target, '/')+1:]
}

// name gives equal names one string: 4,096 VFs have one driver.
func (r *reader) name(s string) string {
	if old, ok := r.seen[s]; ok {
		return old
	}
	r.seen[s] = s
	return s
}

func (d folder) exists(name string) bool {
	return unix.Faccessat(int(d), name, unix.F_OK, 0) == nil
}

// list gives the sorted names in a folder; none if it is not there.
func (r *reader) list(d folder, name string) (names []string) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(d), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, r.buf[:]) })
		if err != nil || n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(r.buf[:n], -1, names)
	}
	slices.Sort(names)
	return names
}

// matching gives the sorted names in a folder that are prefix and a number.
func (r *reader) matching(d folder, prefix string) []string {
	return slices.DeleteFunc(r.list(d, "."), func(name string) bool {
		number, ok := strings.CutPrefix(name, prefix)
		_, err := strconv.ParseUint(number, 10, 32)
		return !ok || err != nil
	})
}
