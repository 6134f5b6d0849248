package ociimage

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Names of the images that every node of the cluster has.
const (
	Pause   = "localhost/pause:1"
	Busybox = "localhost/busybox:1"
)

// ErrNotStatic means that a program needs a dynamic loader, which an image made here does not have.
var ErrNotStatic = errors.New("not a static binary")

// WriteBase writes pause.tar and busybox.tar into dir, made of the busybox on PATH. The error wraps ErrNotStatic if that
// one is the dynamically linked one.
func WriteBase(ctx context.Context, dir string) error {
	binary, applets, err := busybox(ctx)
	if err != nil {
		return err
	}
	program := File{Path: "/bin/busybox", Mode: 0o755, Data: binary}
	// The runtime ends a sandbox with SIGKILL, so it need not heed any other signal.
	pause := Image{Name: Pause, Command: []string{"/bin/busybox", "sleep", "2147483647"}, Files: []File{program}}
	shell := Image{Name: Busybox, Command: []string{"sh"}, Files: []File{program, {Path: "/tmp", Mode: 0o1777, Dir: true}}}
	shell.Files = append(shell.Files, File{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\n")})
	for _, name := range applets {
		if name != "busybox" {
			shell.Files = append(shell.Files, File{Path: "/bin/" + name, Link: "busybox"})
		}
	}
	return errors.Join(pause.writeFile(filepath.Join(dir, "pause.tar")), shell.writeFile(filepath.Join(dir, "busybox.tar")))
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

func (m Image) writeFile(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write image %s: %w", m.Name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return m.Write(f)
}
