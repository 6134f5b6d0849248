package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// apt installs on Debian 12 and newer.
type apt struct {
	c       Config
	as      []string // sudo, or nothing for root
	release string   // target release, "" for the machine's own
	sources string   // etc/apt
}

const (
	backports     = "bookworm-backports"
	backportsFile = "sources.list.d/viaduct-bookworm-backports.sources"
)

func newApt(c Config) (*apt, error) {
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, fmt.Errorf("they are installed by the lab on Debian 12 and newer only, and this system does not say what it is: %w", err)
	}
	release, err := debianRelease(string(raw))
	if err != nil {
		return nil, err
	}
	a := &apt{c: c, release: release, sources: "/etc/apt"}
	if os.Geteuid() == 0 {
		return a, nil
	}
	sudo := findProgram("sudo")
	if sudo == "" {
		return nil, errors.New("installing them takes root, or sudo, and this is neither")
	}
	a.as = []string{sudo}
	return a, nil
}

// debianRelease returns apt's target release for QEMU and the kernel: Debian 12 has both too old, its backports do not.
func debianRelease(osRelease string) (string, error) {
	v := map[string]string{}
	for line := range strings.Lines(osRelease) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		v[key] = strings.Trim(value, `"'`)
	}
	version, err := strconv.Atoi(v["VERSION_ID"])
	if v["ID"] == "debian" && v["VERSION_ID"] == "" {
		return "", nil // testing and unstable have no number, and are newer than 12
	}
	if v["ID"] != "debian" || err != nil || version < 12 {
		return "", fmt.Errorf("the lab prepares itself on Debian 12 and newer only, this is %s", v["PRETTY_NAME"])
	}
	if version == 12 {
		return backports, nil
	}
	return "", nil
}

// update fetches apt's lists, with backports among the sources.
func (a *apt) update(ctx context.Context) error {
	if a.release == backports {
		if err := a.addBackports(ctx); err != nil {
			return err
		}
	}
	return a.run(ctx, "", "update", "-q")
}

func (a *apt) install(ctx context.Context, pkgs []string) error {
	args := []string{"install", "-q", "-y", "--no-install-recommends"}
	var plain, newer []string
	for _, p := range pkgs {
		if a.release != "" && p == "qemu-system-x86" {
			newer = append(newer, p)
		} else {
			plain = append(plain, p)
		}
	}
	if len(plain) > 0 {
		if err := a.run(ctx, "", append(args, plain...)...); err != nil {
			return err
		}
	}
	if len(newer) > 0 {
		return a.run(ctx, "", append(append(args, "-t", a.release), newer...)...)
	}
	return nil
}

// run runs apt-get as root, and again while another apt holds a lock: apt itself waits for dpkg's, not for that of its
// lists.
func (a *apt) run(ctx context.Context, dir string, args ...string) error {
	argv := append(append([]string{}, a.as...), "apt-get", "-o", "DPkg::Lock::Timeout=120")
	argv = append(argv, args...)
	for deadline := time.Now().Add(2 * time.Minute); ; {
		err := command(ctx, a.c.Log, dir, argv...)
		if err == nil || !strings.Contains(err.Error(), "Could not get lock") || time.Now().After(deadline) {
			return err
		}
		a.c.Log("another apt is at work, trying again")
		select {
		case <-ctx.Done():
			return err
		case <-time.After(3 * time.Second):
		}
	}
}

// addBackports adds the machine's own mirror's backports, if no source has them.
func (a *apt) addBackports(ctx context.Context) error {
	stanza, err := backportsStanza(a.sources)
	if err != nil || stanza == "" {
		return err
	}
	path := filepath.Join(a.sources, backportsFile)
	a.c.Log("adding %s to apt's sources: %s", backports, path)
	argv := append(append([]string{}, a.as...), "tee", path)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stanza)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("add %s to apt's sources: %w", path, err)
	}
	return nil
}

var (
	oneLine = regexp.MustCompile(`(?m)^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+bookworm\s`)
	signed  = regexp.MustCompile(`(?i)signed-by=(\S+)`)
)

// backportsStanza reads the sources under etc/apt and returns the file to add, or "" when backports are among them.
func backportsStanza(etc string) (string, error) {
	lists, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return "", fmt.Errorf("read apt's sources: %w", err)
	}
	uri, key := "", "/usr/share/keyrings/debian-archive-keyring.gpg"
	for _, path := range append([]string{filepath.Join(etc, "sources.list")}, lists...) {
		ext := filepath.Ext(path)
		if ext != ".list" && ext != ".sources" {
			continue
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read apt's sources: %w", err)
		}
		u, k, has := readSources(string(raw), ext == ".sources")
		if has {
			return "", nil
		}
		if uri == "" && u != "" {
			uri = u
			if k != "" {
				key = k
			}
		}
	}
	if uri == "" {
		return "", fmt.Errorf("find the machine's Debian mirror for %s: no source under %s has the suite bookworm", backports, etc)
	}
	return fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n", uri, backports, key), nil
}

// readSources returns the URI and key of the suite bookworm, and whether the file has its backports.
func readSources(text string, deb822 bool) (uri, key string, has bool) {
	if !deb822 {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "deb ") && strings.Contains(line, backports) {
				return "", "", true
			}
		}
		m := oneLine.FindStringSubmatch(text)
		if m == nil {
			return "", "", false
		}
		if k := signed.FindStringSubmatch(m[1]); k != nil {
			key = k[1]
		}
		return m[2], key, false
	}
	for stanza := range strings.SplitSeq(text, "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(stanza) {
			k, value, ok := strings.Cut(line, ":")
			if ok && !strings.HasPrefix(line, "#") {
				v[strings.ToLower(k)] = strings.TrimSpace(value)
			}
		}
		if strings.EqualFold(v["enabled"], "no") {
			continue
		}
		for suite := range strings.FieldsSeq(v["suites"]) {
			if suite == backports {
				return "", "", true
			}
			if suite == "bookworm" && uri == "" {
				uri, _, _ = strings.Cut(v["uris"], " ")
				key = v["signed-by"]
			}
		}
	}
	return uri, key, false
}
