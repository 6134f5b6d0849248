package vm

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	qemuName = "qemu-system-x86_64"
	minQEMU  = 8 // the first major version with igb
)

// tool is a program that the lab or what runs in it needs, and its Debian package.
type tool struct{ name, pkg string }

// The guest runs on this machine's root, so what tests call there is installed here.
var needed = []tool{
	{qemuName, "qemu-system-x86"},
	{"modprobe", "kmod"},
	{"depmod", "kmod"},
	{"xz", "xz-utils"},
	{"busybox", "busybox-static"},
	{"ip", "iproute2"},
	{"ethtool", "ethtool"},
	{"lspci", "pciutils"},
	{"ping", "iputils-ping"},
	{"mkfs.ext4", "e2fsprogs"},
}

// tools are the paths of what is there.
type tools struct{ path map[string]string }

// findTools returns what is there, and the packages of what is not.
func findTools(ctx context.Context) (tools, []string) {
	t := tools{path: map[string]string{}}
	var missing []string
	for _, n := range needed {
		path := findProgram(n.name)
		ok := path != ""
		switch {
		case ok && n.name == qemuName:
			ok = qemuMajor(ctx, path) >= minQEMU
		case ok && n.name == "busybox":
			ok = isStatic(path) // in the initramfs there is no libc
		}
		if !ok {
			missing = append(missing, n.pkg)
			continue
		}
		t.path[n.name] = path
	}
	return t, slices.Compact(missing)
}

// findProgram looks in PATH and where Debian keeps an administrator's programs.
func findProgram(name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), filepath.SplitList(sbin)...) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// qemuMajor is 0 when the program does not say.
func qemuMajor(ctx context.Context, path string) int {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return 0
	}
	return parseQEMUMajor(string(out))
}

func parseQEMUMajor(version string) int {
	_, rest, ok := strings.Cut(version, "version ")
	major, _, ok2 := strings.Cut(rest, ".")
	n, err := strconv.Atoi(major)
	if !ok || !ok2 || err != nil {
		return 0
	}
	return n
}

func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// findOrInstall returns the tools, after it installed those that were missing.
func findOrInstall(ctx context.Context, c Config) (tools, error) {
	t, missing := findTools(ctx)
	if len(missing) == 0 {
		return t, nil
	}
	a, err := newApt(c)
	if err != nil {
		return tools{}, fmt.Errorf("%w: these are missing: %s; %w", ErrNotPrepared, describe(missing), err)
	}
	c.Log("installing with apt: %s", strings.Join(missing, " "))
	if err := a.update(ctx); err != nil {
		return tools{}, fmt.Errorf("%w: %w", ErrNotPrepared, err)
	}
	if err := a.install(ctx, missing); err != nil {
		return tools{}, fmt.Errorf("%w: %w", ErrNotPrepared, err)
	}
	if t, missing = findTools(ctx); len(missing) > 0 {
		return tools{}, fmt.Errorf("%w: apt installed them, and they are missing still: %s", ErrNotPrepared, describe(missing))
	}
	return t, nil
}

// describe says in terms of any distribution what Debian's packages hold.
func describe(pkgs []string) string {
	var all []string
	for _, pkg := range pkgs {
		var names []string
		for _, n := range needed {
			if n.pkg != pkg {
				continue
			}
			switch n.name {
			case qemuName:
				names = append(names, fmt.Sprintf("%s %d or newer", qemuName, minQEMU))
			case "busybox":
				names = append(names, "a static busybox")
			default:
				names = append(names, n.name)
			}
		}
		all = append(all, strings.Join(names, " and ")+" (Debian: "+pkg+")")
	}
	return strings.Join(all, ", ")
}

// worthTelling are apt's lines that show progress or trouble; the rest is for an error only.
func worthTelling(line string) bool {
	return slices.ContainsFunc([]string{"Setting up ", "Fetched ", "W: ", "E: "}, func(p string) bool { return strings.HasPrefix(line, p) })
}

// command runs a program, tells its progress through log, and returns an error that ends with its last lines.
func command(ctx context.Context, log func(string, ...any), dir string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var last []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if worthTelling(lines.Text()) {
				log("  %s", lines.Text())
			}
			last = append(last[max(0, len(last)-9):], lines.Text())
		}
		_, _ = io.Copy(io.Discard, r) // a line too long for the scanner must not stop the program
	}()
	err := cmd.Run()
	_ = w.Close() // an in-memory pipe's close does not fail
	<-read
	if err != nil {
		return errors.Join(fmt.Errorf("run %s: %w", strings.Join(argv, " "), err), errors.New(strings.Join(last, "\n")))
	}
	return nil
}
