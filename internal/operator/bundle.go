package operator

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// A Bundle takes the files of a report. Names are slash-separated and relative.
type Bundle interface {
	File(name string, data []byte) error
	Link(name, target string) error
	Close() error
}

// NewFolder is a bundle in a new folder, mode 0700.
func NewFolder(dir string) (Bundle, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the report's folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the report's folder: %w", err)
	}
	return &folder{root}, nil
}

type folder struct{ root *os.Root }

func (f *folder) File(name string, data []byte) error {
	if err := f.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return f.root.WriteFile(name, data, 0o600)
}

func (f *folder) Link(name, target string) error {
	if err := f.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return f.root.Symlink(target, name)
}

func (f *folder) Close() error { return f.root.Close() }

// NewArchive is a bundle as a tar.gz, all of it below a folder of the given name.
func NewArchive(w io.Writer, name string, now time.Time) Bundle {
	z := gzip.NewWriter(w)
	return &archive{tar.NewWriter(z), z, name, now}
}

type archive struct {
	tar  *tar.Writer
	gzip *gzip.Writer
	name string
	now  time.Time
}

func (a *archive) File(name string, data []byte) error {
	err := a.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: path.Join(a.name, name), Mode: 0o600, Size: int64(len(data)), ModTime: a.now,
	})
	if err == nil {
		_, err = a.tar.Write(data)
	}
	return err
}

func (a *archive) Link(name, target string) error {
	return a.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeSymlink, Name: path.Join(a.name, name), Linkname: target, Mode: 0o777, ModTime: a.now,
	})
}

func (a *archive) Close() error { return errors.Join(a.tar.Close(), a.gzip.Close()) }

// tail reads the end of a plain file, from the start of a line.
func tail(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no plain file")}
	}
	start := max(0, info.Size()-most)
	data, err := io.ReadAll(io.NewSectionReader(f, start, most))
	if start > 0 {
		for i, c := range data {
			if c == '\n' {
				return data[i+1:], err
			}
		}
	}
	return data, err
}

// inTree is the name in the bundle of a file of the node: it can be looked at with --root then.
func inTree(file string) string { return path.Join("node", filepath.ToSlash(file)) }
