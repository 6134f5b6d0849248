package vm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bootModules are all that the guest needs before it sees the host's root; the rest comes from /lib/modules there.
var bootModules = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"}

const bootOK = "VIADUCT LAB PROBE OK"

// initScript is process 1 until the host's root is there. /job/init and /job/path come with each run.
const initScript = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m || echo "viaduct lab: insmod $m failed"; done
if ! [ -e /job/init ]; then echo "` + bootOK + `"; $b poweroff -f; fi
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower || echo "viaduct lab: mount of the host's root failed"
$b mount -t tmpfs -o size=90% rw /rw
$b mkdir -p /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /new
for d in proc sys dev; do $b mount --move /$d /new/$d; done
init=$($b cat /job/init)
job=$($b cat /job/path)
exec $b switch_root /new "$init" "$job"
`

// initramfs returns the path of the archive for this kernel, made now if there is none. Its name carries a digest of
// what goes into it, so that versions of the lab that share a cache keep apart.
func initramfs(ctx context.Context, c Config, k kernel, t tools) (string, error) {
	sum := sha256.Sum256([]byte(initScript + strings.Join(bootModules, " ")))
	path := filepath.Join(c.Cache, "lab", fmt.Sprintf("initramfs-%s-%x.gz", k.version, sum[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	c.Log("building the initramfs for Linux %s", k.version)
	var buf bytes.Buffer
	zip, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	if err := writeInitramfs(ctx, &cpioWriter{w: zip}, k, t); err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	if err := zip.Close(); err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	if err := writeFile(path, buf.Bytes()); err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	return path, nil
}

func writeInitramfs(ctx context.Context, w *cpioWriter, k kernel, t tools) error {
	busybox, err := os.ReadFile(t.path["busybox"])
	if err != nil {
		return err
	}
	for _, dir := range []string{"bin", "modules", "job", "proc", "sys", "dev", "lower", "rw", "new"} {
		w.add(dir, cpioDir, nil)
	}
	w.add("bin/busybox", cpioExec, busybox)
	w.add("init", cpioExec, []byte(initScript))
	files, err := k.loadOrder(bootModules)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, file := range files {
		data, err := unpackModule(ctx, filepath.Join(k.modules(), file), t)
		if err != nil {
			return err
		}
		name := moduleName(file) + ".ko"
		w.add("modules/"+name, cpioFile, data)
		fmt.Fprintln(&order, name)
	}
	w.add("modules/order", cpioFile, []byte(order.String()))
	return w.close()
}

// jobArchive is the second archive: what this run adds.
func jobArchive(init, job string) ([]byte, error) {
	var buf bytes.Buffer
	w := &cpioWriter{w: &buf}
	w.add("job/init", cpioFile, []byte(init))
	w.add("job/path", cpioFile, []byte(job))
	return buf.Bytes(), w.close()
}

// unpackModule returns a module's ELF: busybox's insmod reads no .xz.
func unpackModule(ctx context.Context, path string, t tools) ([]byte, error) {
	if filepath.Ext(path) == ".ko" {
		return os.ReadFile(path)
	}
	out, err := exec.CommandContext(ctx, t.path["xz"], "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("unpack the module %s: %w", path, withStderr(err))
	}
	return out, nil
}

func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// loadOrder lists the files of the named modules and of all they depend on, each after what it depends on. A module
// that is built into the kernel needs no file.
func (k kernel) loadOrder(names []string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read the modules' dependencies: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules(), "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read the list of built-in modules: %w", err)
	}
	return loadOrder(names, string(dep), string(builtin))
}

func loadOrder(names []string, dep, builtin string) ([]string, error) {
	needs := map[string][]string{} // module name to its file and then what it needs, nearest first
	for line := range strings.Lines(dep) {
		file, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok {
			needs[moduleName(file)] = append([]string{file}, strings.Fields(deps)...)
		}
	}
	in := map[string]bool{}
	for file := range strings.Lines(builtin) {
		in[moduleName(strings.TrimSpace(file))] = true
	}
	var order []string
	for _, name := range names {
		name = moduleName(name)
		files, ok := needs[name]
		if !ok && !in[name] {
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		for _, file := range slices.Backward(files) {
			if !slices.Contains(order, file) {
				order = append(order, file)
			}
		}
	}
	return order, nil
}

// moduleName is the module's name in the kernel's spelling: "kernel/net/8021q/8021q.ko.xz" is 8021q.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
