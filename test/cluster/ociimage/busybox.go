// Package ociimage writes the images that every node of the cluster has: the pods of the tests need a shell and a ping, and
// the sandbox a program that waits.
package ociimage

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/viaduct-sriov/viaduct/images/oci"
)

// Names of the images that every node of the cluster has.
const (
	Pause   = "localhost/pause:1"
	Busybox = "localhost/busybox:1"
	// Testpmd is not among them: see WriteTestpmd.
	Testpmd = "localhost/testpmd:1"
)

// ErrNotStatic means that a program needs a dynamic loader, which an image made here does not have.
var ErrNotStatic = errors.New("not a static binary")

// WriteBase writes an archive of both images, made of the busybox on PATH. The error wraps ErrNotStatic if that one is the
// dynamically linked one.
func WriteBase(ctx context.Context, path string) error {
	files, err := base(ctx)
	if err != nil {
		return err
	}
	// One layer for both: a runtime unpacks it once. It ends a sandbox with SIGKILL, so pause need not heed any other signal.
	return write(path,
		oci.Image{Name: Pause, Files: files, Command: []string{"sleep", "2147483647"}},
		oci.Image{Name: Busybox, Files: files, Command: []string{"sh"}},
	)
}

func write(path string, images ...oci.Image) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the images: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return oci.Write(f, images...)
}

// base is what each image has: a shell and all that busybox can do.
func base(ctx context.Context) ([]oci.File, error) {
	binary, applets, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	files := []oci.File{
		{Path: "/bin/busybox", Mode: 0o755, Data: binary},
		{Path: "/tmp", Mode: 0o1777, Dir: true},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\n")},
	}
	for _, name := range applets {
		if name != "busybox" {
			files = append(files, oci.File{Path: "/bin/" + name, Link: "busybox"})
		}
	}
	return files, nil
}

// busybox is the machine's static busybox and the names of what it can do.
func busybox(ctx context.Context) (binary []byte, applets []string, err error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, nil, fmt.Errorf("find busybox: %w", err)
	}
	if err := static(path); err != nil {
		return nil, nil, err
	}
	if binary, err = os.ReadFile(path); err != nil {
		return nil, nil, fmt.Errorf("read busybox: %w", err)
	}
	out, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list what busybox can do: %w", err)
	}
	return binary, strings.Fields(string(out)), nil
}

// static reports with an error that the program at path is not a static binary.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s: %w; install busybox-static", path, ErrNotStatic)
		}
	}
	return nil
}
