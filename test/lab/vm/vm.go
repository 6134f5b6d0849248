// Package vm runs a command in a QEMU virtual machine whose NICs are emulated Intel 82576 ones with SR-IOV, driven by
// a Debian kernel's own igb and igbvf. The guest's root is this machine's root, read-only, under a tmpfs overlay: what
// is built or installed here runs there, as root and in the same folder, and nothing it writes lasts, but for
// /persist, /artefacts, coverage and profiles.
//
// A program that links this package is also the init of its own guests: see init in guest.go.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// MaxVFs is how many VFs an emulated 82576 offers per PF.
const MaxVFs = 7

// MaxMemoryMiB is the most memory that a guest with PFs may have. From 2816 MiB on, QEMU's q35 puts a part of it above
// 4 GiB, and then the emulated igb's VFs come up without carrier and pass no frames (seen with 2800 and 4096 MiB, the same
// kernel, drivers and commands).
const MaxMemoryMiB = 2800

// Errors that a caller may want to tell apart.
var (
	// ErrNotPrepared: something is missing that Prepare could not install. The text lists what.
	ErrNotPrepared = errors.New("the lab is not prepared")
	// ErrBoot: two boots in a row did not reach the command.
	ErrBoot = errors.New("the virtual machine did not boot")
	// ErrDied: the machine ended, by a panic, a reset or QEMU's own end, before the command did.
	ErrDied = errors.New("the virtual machine ended before the command")
	// ErrCommand: the guest booted and could not start the command.
	ErrCommand = errors.New("the guest could not run the command")
)

// Config is the machine and what is around the command. The zero value works.
type Config struct {
	PFs       int // igb NICs; 0 means 2, negative none
	VFs       int // how many VFs each PF has at boot, 0 to MaxVFs; more or others are the command's to make
	NUMANodes int // PF i is on node i mod NUMANodes; 0 means 2
	MemoryMiB int // 0 means 2048; at most MaxMemoryMiB with PFs
	CPUs      int // 0 means 1: emulated CPUs wait for each other, and a second one costs half as much again
	// Separate gives each PF an Ethernet segment of its own; otherwise all PFs are on one.
	Separate bool

	Persist   string // folder of the host whose disk.img is /persist in the guest, ext4; made when missing
	Artefacts string // folder of the host that is /artefacts in the guest, writable; made when missing

	// Uplink adds a virtio NIC on user networking, unconfigured: 10.0.2.15/24, and 10.0.2.2 is the host's loopback.
	Uplink       bool
	HostForwards []string // QEMU's hostfwd, e.g. "tcp:10.0.2.15:10250-10.0.2.15:10250"
	NetNS        string   // path of the host's network namespace that QEMU runs in; "" is the caller's

	// Env is the command's environment, over PATH, HOME, TERM, GOCOVERDIR and VIADUCT_… of this process.
	Env []string
	Dir string // the command's working folder; "" is this process's

	Stdin          io.Reader // nil is empty
	Stdout, Stderr io.Writer // nil discards
	// TTY gives the command a terminal. Stdin must be the terminal's *os.File; it is in raw mode while Run runs.
	TTY bool
	// Signals go to the command's process group. After the first, the command has a grace time to end.
	Signals <-chan os.Signal

	Cache       string                           // "" is ${VIADUCT_CACHE:-${XDG_CACHE_HOME:-~/.cache}/viaduct}
	BootTimeout time.Duration                    // 0 is 2 minutes, longer when the machine is busy
	Console     io.Writer                        // gets the guest's console live; nil keeps it for errors only
	Log         func(format string, args ...any) // progress, one line each; nil discards
}

// Prepare installs and unpacks what the lab needs and does not have, with progress through Log. When nothing is missing
// it only looks, in some tens of milliseconds. Two at the same time wait for each other.
func Prepare(ctx context.Context, c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	_, err = prepare(ctx, c)
	return err
}

// Run prepares, boots, runs argv as root in the guest and returns its exit status, 128+n when signal n killed it.
// A boot that does not reach the command is tried once more. When ctx ends, the command gets SIGTERM, and 10 s
// later the machine is gone; the error is then the cause of ctx's end, beside the status if there was one.
func Run(ctx context.Context, c Config, argv []string) (exit int, err error) {
	if len(argv) == 0 {
		return 0, errors.New("run in the lab: no command given")
	}
	c, err = c.withDefaults()
	if err != nil {
		return 0, err
	}
	parts, err := prepareUntil(ctx, c)
	if err != nil {
		return 0, err
	}
	r, err := newRun(ctx, c, parts, argv)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return r.run(ctx)
}

func (c Config) withDefaults() (Config, error) {
	if runtime.GOARCH != "amd64" {
		return c, fmt.Errorf("%w: the igb lab needs an amd64 machine, this is %s", ErrNotPrepared, runtime.GOARCH)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&c.PFs, 2}, {&c.NUMANodes, 2}, {&c.MemoryMiB, 2048}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	c.PFs = max(c.PFs, 0)
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	if err := c.check(); err != nil {
		return c, err
	}
	return c.withPaths()
}

// Limits of the machine in qemu.go: 32 bus numbers per NUMA node of 256, and one of them per NIC.
const (
	maxNodes      = 7
	maxPFsPerNode = 16
)

func (c Config) check() error {
	switch {
	case c.VFs < 0 || c.VFs > MaxVFs:
		return fmt.Errorf("configure the lab: %d VFs per PF, the NIC offers %d", c.VFs, MaxVFs)
	case c.VFs > 0 && c.PFs == 0:
		return fmt.Errorf("configure the lab: %d VFs per PF, and no PF", c.VFs)
	case c.NUMANodes < 1 || c.NUMANodes > maxNodes:
		return fmt.Errorf("configure the lab: %d NUMA nodes, possible are 1 to %d", c.NUMANodes, maxNodes)
	case c.PFs > maxPFsPerNode*c.NUMANodes:
		return fmt.Errorf("configure the lab: %d PFs, %d NUMA nodes carry at most %d", c.PFs, c.NUMANodes, maxPFsPerNode*c.NUMANodes)
	case c.PFs > 0 && c.MemoryMiB > MaxMemoryMiB:
		return fmt.Errorf("configure the lab: %d MiB of memory, %d at most: the emulated NIC's VFs carry no frames when memory lies above 4 GiB", c.MemoryMiB, MaxMemoryMiB)
	case c.MemoryMiB < 256*c.NUMANodes:
		return fmt.Errorf("configure the lab: %d MiB of memory, %d NUMA nodes need at least %d", c.MemoryMiB, c.NUMANodes, 256*c.NUMANodes)
	case len(c.HostForwards) > 0 && !c.Uplink:
		return errors.New("configure the lab: HostForwards need Uplink")
	}
	return nil
}

func (c Config) withPaths() (Config, error) {
	if c.Cache == "" {
		dir, err := CacheDir()
		if err != nil {
			return c, err
		}
		c.Cache = dir
	}
	if c.Dir == "" {
		c.Dir = "."
	}
	for _, p := range []*string{&c.Cache, &c.Dir, &c.Persist, &c.Artefacts} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, fmt.Errorf("configure the lab: %w", err)
		}
		*p = abs
	}
	for _, p := range []string{c.Cache, c.Dir} {
		if err := checkVisible(p); err != nil {
			return c, fmt.Errorf("configure the lab: %w", err)
		}
	}
	return c, nil
}

// CacheDir is where the lab and the cluster keep what is expensive to make.
func CacheDir() (string, error) {
	if dir := os.Getenv("VIADUCT_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir() // XDG_CACHE_HOME, or ~/.cache
	if err != nil {
		return "", fmt.Errorf("find the cache folder (VIADUCT_CACHE sets it): %w", err)
	}
	return filepath.Join(dir, "viaduct"), nil
}
