package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernel is a Debian kernel package, unpacked in the cache and not installed:
//
//	lab/linux-6.12.0-amd64/boot/vmlinuz-6.12.0-amd64
//	lab/linux-6.12.0-amd64/lib/modules/6.12.0-amd64/
type kernel struct{ root, version string }

func (k kernel) image() string   { return filepath.Join(k.root, "boot", "vmlinuz-"+k.version) }
func (k kernel) modules() string { return filepath.Join(k.root, "lib", "modules", k.version) }

func (k kernel) complete() bool {
	for _, path := range []string{k.image(), filepath.Join(k.modules(), "modules.dep")} {
		if _, err := os.Stat(path); err != nil {
			return false
		}
	}
	return true
}

const kernelPrefix = "linux-"

func findKernel(cache string) (kernel, bool) {
	dirs, err := filepath.Glob(filepath.Join(cache, "lab", kernelPrefix+"*"))
	if err != nil {
		return kernel{}, false
	}
	for _, dir := range dirs {
		k := kernel{dir, strings.TrimPrefix(filepath.Base(dir), kernelPrefix)}
		if k.complete() {
			return k, true
		}
	}
	return kernel{}, false
}

func findOrUnpackKernel(ctx context.Context, c Config, t tools) (kernel, error) {
	if k, ok := findKernel(c.Cache); ok {
		return k, nil
	}
	a, err := newApt(c)
	if err != nil {
		return kernel{}, fmt.Errorf("%w: there is no Debian kernel under %s; %w", ErrNotPrepared, filepath.Join(c.Cache, "lab"), err)
	}
	pkg, err := a.kernelPackage(ctx)
	if err != nil { // most likely there are no lists yet
		if err := a.update(ctx); err != nil {
			return kernel{}, fmt.Errorf("%w: %w", ErrNotPrepared, err)
		}
		if pkg, err = a.kernelPackage(ctx); err != nil {
			return kernel{}, fmt.Errorf("%w: %w", ErrNotPrepared, err)
		}
	}
	return unpackKernel(ctx, c, t, a, pkg)
}

// kernelPackage is the package that linux-image-amd64 stands for now.
func (a *apt) kernelPackage(ctx context.Context) (string, error) {
	args := []string{"depends", "linux-image-amd64"}
	if a.release != "" {
		args = append([]string{"-o", "APT::Default-Release=" + a.release}, args...)
	}
	out, err := exec.CommandContext(ctx, "apt-cache", args...).Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for the kernel's package: %w", withStderr(err))
	}
	for line := range strings.Lines(string(out)) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			// Debian 12's own kernel stands in when backports are not in the lists yet.
			if a.release != "" && strings.HasPrefix(pkg, "6.1.") {
				return "", fmt.Errorf("ask apt for the kernel's package: %s is not among its lists", a.release)
			}
			return "linux-image-" + pkg, nil
		}
	}
	return "", fmt.Errorf("ask apt for the kernel's package: linux-image-amd64 depends on no linux-image in %q", out)
}

// unpackKernel downloads and unpacks beside its final place, and renames when all is there.
func unpackKernel(ctx context.Context, c Config, t tools, a *apt, pkg string) (_ kernel, err error) {
	lab := filepath.Join(c.Cache, "lab")
	tmp, err := os.MkdirTemp(lab, "unpack-")
	if err != nil {
		return kernel{}, fmt.Errorf("unpack the kernel: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	c.Log("downloading %s (about 100 MB)", pkg)
	// Not as root: a download needs none. apt's sandbox user cannot write here, so there is no sandbox to use.
	argv := []string{"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg}
	if a.release != "" {
		argv = append(argv, "-t", a.release)
	}
	if err := command(ctx, c.Log, tmp, argv...); err != nil {
		return kernel{}, fmt.Errorf("%w: %w", ErrNotPrepared, err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return kernel{}, errors.Join(fmt.Errorf("unpack the kernel: apt-get download left %d packages in %s, want one", len(debs), tmp), err)
	}
	c.Log("unpacking it into %s", lab)
	root := filepath.Join(tmp, "root")
	if err := command(ctx, c.Log, tmp, "dpkg-deb", "--extract", debs[0], root); err != nil {
		return kernel{}, fmt.Errorf("unpack the kernel: %w", err)
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, errors.Join(fmt.Errorf("unpack the kernel: %s has %d images, want one", pkg, len(images)), err)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if merged, err := filepath.Glob(filepath.Join(root, "usr", "lib", "modules")); err == nil && len(merged) == 1 {
		// Newer packages ship /usr/lib only.
		if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
			return kernel{}, fmt.Errorf("unpack the kernel: %w", err)
		}
	}
	if err := command(ctx, c.Log, tmp, t.path["depmod"], "-b", root, version); err != nil {
		return kernel{}, fmt.Errorf("unpack the kernel: %w", err)
	}
	k := kernel{filepath.Join(lab, kernelPrefix+version), version}
	if err := errors.Join(os.RemoveAll(k.root), os.Rename(root, k.root)); err != nil {
		return kernel{}, fmt.Errorf("unpack the kernel: %w", err)
	}
	return k, nil
}
