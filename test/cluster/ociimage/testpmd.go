package ociimage

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/viaduct-sriov/viaduct/images/oci"
)

// testpmd is where Debian's dpdk-dev has it.
const testpmd = "usr/bin/dpdk-testpmd"

// drivers are those that testpmd opens by itself, out of all that Debian has: the one of Intel's 82576 and its VFs, and the
// one that keeps packet buffers.
var drivers = []string{"librte_net_e1000", "librte_mempool_ring"}

// WriteTestpmd writes an archive of the image Testpmd: a shell, DPDK's testpmd, and what it links. The packages are
// downloaded and unpacked in a folder that goes afterwards; nothing is installed, since dpdk-dev would bring 200 more and
// another version of systemd.
func WriteTestpmd(ctx context.Context, path string, log func(format string, args ...any)) (err error) {
	files, err := base(ctx)
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "viaduct-testpmd-")
	if err != nil {
		return fmt.Errorf("make a folder to unpack DPDK in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	d := debian{root: root, log: log}
	if err := d.unpack(ctx, "dpdk-dev"); err != nil {
		return err
	}
	libraries, err := d.libraries(ctx)
	if err != nil {
		return err
	}
	linked, err := imageFiles(d, libraries)
	if err != nil {
		return fmt.Errorf("gather testpmd and its libraries: %w", err)
	}
	files = append(files, oci.File{Path: "/var/run", Mode: 0o755, Dir: true}) // DPDK makes a folder there
	return write(path, oci.Image{Name: Testpmd, Files: append(files, linked...), Command: []string{"sh"}})
}

// imageFiles are testpmd, its dynamic loader, and the libraries: where the loader looks without being told, or the drivers'
// where testpmd does.
func imageFiles(d debian, libraries map[string]string) ([]oci.File, error) {
	program := filepath.Join(d.root, testpmd)
	loader, err := interpreter(program)
	if err != nil {
		return nil, err
	}
	paths := map[string]string{"/" + testpmd: program, loader: loader}
	for soname, path := range libraries {
		target := filepath.Join("/usr/lib", triplet, soname)
		if isDriver(soname) {
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				return nil, err
			}
			target = strings.TrimPrefix(real, d.root)
		}
		paths[target] = path
	}
	var files []oci.File
	for target, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, oci.File{Path: target, Mode: 0o755, Data: data})
	}
	return files, nil
}

// libraries are all that testpmd and its drivers link, each name with its path. What neither the machine nor the unpacked
// packages have is downloaded, until nothing is missing.
func (d debian) libraries(ctx context.Context) (map[string]string, error) {
	asked := map[string]bool{}
	for {
		found, missing, err := d.resolve()
		if err != nil || len(missing) == 0 {
			return found, err
		}
		var packages []string
		for _, soname := range missing {
			if asked[soname] {
				return nil, fmt.Errorf("the package %s has no %s, which testpmd links", packageOf(soname), soname)
			}
			asked[soname] = true
			packages = append(packages, packageOf(soname))
		}
		if err := d.unpack(ctx, packages...); err != nil {
			return nil, err
		}
	}
}

// resolve follows the links of testpmd and its drivers as the dynamic loader would.
func (d debian) resolve() (found map[string]string, missing []string, err error) {
	todo, err := imported(filepath.Join(d.root, testpmd))
	if err != nil {
		return nil, nil, err
	}
	abi := abiOf(todo)
	for _, name := range drivers {
		todo = append(todo, name+abi)
	}
	found, seen := map[string]string{}, map[string]bool{}
	for len(todo) > 0 {
		soname := todo[0]
		todo = todo[1:]
		if seen[soname] {
			continue
		}
		seen[soname] = true
		path := d.find(soname)
		if path == "" {
			missing = append(missing, soname)
			continue
		}
		found[soname] = path
		more, err := imported(path)
		if err != nil {
			return nil, nil, err
		}
		todo = append(todo, more...)
	}
	return found, missing, nil
}

// abiOf is the version in DPDK's own libraries' names, such as .so.23.
func abiOf(sonames []string) string {
	for _, s := range sonames {
		if abi, ok := strings.CutPrefix(s, "librte_eal"); ok {
			return abi
		}
	}
	return ""
}

func isDriver(soname string) bool {
	for _, name := range drivers {
		if strings.HasPrefix(soname, name+".so") {
			return true
		}
	}
	return false
}

// imported are the libraries that a program or a library links.
func imported(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	return f.ImportedLibraries()
}

// interpreter is the dynamic loader that a program names.
func interpreter(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".interp")
	if section == nil {
		return "", fmt.Errorf("%s names no dynamic loader", path)
	}
	name, err := section.Data()
	return strings.TrimRight(string(name), "\x00"), err
}
