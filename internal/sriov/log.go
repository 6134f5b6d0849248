package sriov

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where things are on a node, unless its Site says otherwise.
const (
	SiteFile   = "/etc/viaduct/sriov.json"
	DefaultDir = "/run/viaduct/vf"
	DefaultLog = "/var/log/viaduct"
)

// A Site is what the node's owner may set, and a network definition may not: its authors are trusted less.
type Site struct {
	StateDir string `json:"stateDir"`
	LogDir   string `json:"logDir"`
}

// ReadSite reads the site file; a missing one means the defaults. Others than root must not be able to write it.
func ReadSite(path string) (Site, error) {
	s := Site{StateDir: DefaultDir, LogDir: DefaultLog}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the site's settings: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return s, fmt.Errorf("read the site's settings %s: %w", path, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return s, fmt.Errorf("read the site's settings %s: owner %d, mode %#o: only root may be able to write it", path, st.Uid, st.Mode&0o777)
	}
	d := json.NewDecoder(io.LimitReader(f, 1<<16))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("read the site's settings %s: %w", path, err)
	}
	if !filepath.IsAbs(s.StateDir) || !filepath.IsAbs(s.LogDir) {
		return s, fmt.Errorf("read the site's settings %s: stateDir and logDir have to be absolute paths", path)
	}
	return s, nil
}

// OpenLog makes the logger that a network definition asks for. Its logFile counts only below dir and is opened without
// following links, so that nobody's file is written to by way of a definition; otherwise stderr takes the log. Close the
// Closer at the end.
func OpenLog(stdin []byte, dir string, stderr io.Writer) (*slog.Logger, io.Closer) {
	var in struct {
		LogLevel string `json:"logLevel"`
		LogFile  string `json:"logFile"`
	}
	if bytes.Contains(stdin, []byte(`"log`)) {
		_ = json.Unmarshal(stdin, &in) // what is wrong with it Parse will say
	}
	out, closer, fileErr := stderr, io.Closer(io.NopCloser(nil)), error(nil)
	if in.LogFile != "" {
		var f *os.File
		if f, fileErr = openBelow(dir, in.LogFile); fileErr == nil {
			out, closer = f, f
		}
	}
	level, levelErr := parseLevel(in.LogLevel)
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	if fileErr != nil {
		log.Warn("logFile is ignored", "file", in.LogFile, "error", fileErr)
	}
	if levelErr != nil {
		log.Warn("logLevel is ignored", "error", levelErr)
	}
	return log, closer
}

// parseLevel knows the words of other CNI plugins, too.
func parseLevel(s string) (level slog.Level, err error) {
	switch strings.ToLower(s) {
	case "":
		return slog.LevelInfo, nil
	case "warning":
		return slog.LevelWarn, nil
	case "panic", "fatal":
		return slog.LevelError, nil
	case "verbose", "trace":
		return slog.LevelDebug, nil
	}
	return level, level.UnmarshalText([]byte(s))
}

// openBelow opens a file for appending if no part of its path, from dir on, is a link or leads out of dir.
func openBelow(dir, file string) (*os.File, error) {
	rel, err := filepath.Rel(dir, file)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return nil, fmt.Errorf("it is not below %s", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// No device and no pipe that would hold us up: a plain file, seen after it was opened.
	fd, err := unix.Openat2(int(root.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Mode:    0o600,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	f := os.NewFile(uintptr(fd), file)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no plain file", file), err, f.Close())
	}
	return f, nil
}
