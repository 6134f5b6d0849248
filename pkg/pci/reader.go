package pci

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A reader reads sysfs attributes. A scan of 16 PFs with 256 VFs each reads some 50,000 of them, so it opens files without
// os.File (which would register each with the runtime's poller), in one buffer, and gives equal names one string.
type reader struct {
	root string
	buf  [4096]byte // an attribute is at most a page
	path []byte
	seen map[string]string
	ids  map[uint32]string
}

func newReader(root string) *reader {
	if root == "" {
		root = "/"
	}
	return &reader{root: root, seen: map[string]string{}, ids: map[uint32]string{}}
}

// join makes dir/name as a C string in a buffer that the next join overwrites.
func (r *reader) join(dir, name string) *byte {
	r.path = append(r.path[:0], dir...)
	r.path = append(r.path, '/')
	r.path = append(r.path, name...)
	r.path = append(r.path, 0)
	return &r.path[0]
}

// raw reads an attribute without the white space around it. Nil, false: it is not there, or the driver refuses to say.
func (r *reader) raw(dir, name string) ([]byte, bool) {
	r.join(dir, name)
	fd, err := openat(r.path)
	if err != nil {
		return nil, false
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	n := 0
	for n < len(r.buf) {
		m, err := unix.Read(fd, r.buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, false
		}
		if m == 0 {
			break
		}
		n += m
	}
	b := r.buf[:n]
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b, true
}

func openat(path []byte) (int, error) {
	for {
		fd, err := unix.Open(unsafe.String(&path[0], len(path)-1), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (r *reader) text(dir, name string) (string, bool) {
	b, ok := r.raw(dir, name)
	return string(b), ok
}

func (r *reader) number(dir, name string) (int, bool) {
	b, ok := r.raw(dir, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(string(b))
	return n, err == nil
}

// hex reads an attribute such as 0x8086.
func (r *reader) hex(dir, name string) (uint32, bool) {
	b, ok := r.raw(dir, name)
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
func (r *reader) link(dir, name string) string {
	r.join(dir, name)
	n, err := unix.Readlink(unsafe.String(&r.path[0], len(r.path)-1), r.buf[:])
	if err != nil {
		return ""
	}
	target := r.buf[:n]
	for i := n - 1; i >= 0; i-- {
		if target[i] == '/' {
			target = target[i+1:]
			break
		}
	}
	return string(target)
}

// name gives equal names one string: 4,096 VFs have one driver.
func (r *reader) name(s string) string {
	if old, ok := r.seen[s]; ok {
		return old
	}
	r.seen[s] = s
	return s
}

// list gives the sorted names in a folder; none if it is not there.
func (r *reader) list(dir, name string) []string {
	names, err := readNames(dir + "/" + name)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// matching gives the sorted names in a folder that are prefix and a number.
func (r *reader) matching(dir, prefix string) []string {
	return slices.DeleteFunc(r.list(dir, "."), func(name string) bool {
		number, ok := strings.CutPrefix(name, prefix)
		_, err := strconv.ParseUint(number, 10, 32)
		return !ok || err != nil
	})
}

func readNames(dir string) (names []string, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	return f.Readdirnames(-1)
}

func (r *reader) exists(dir, name string) bool {
	r.join(dir, name)
	var s unix.Stat_t
	return unix.Lstat(unsafe.String(&r.path[0], len(r.path)-1), &s) == nil
}
