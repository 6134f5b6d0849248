package ociimage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// triplet is in the paths of Debian's libraries.
const triplet = "x86_64-linux-gnu"

// debian downloads packages of this machine's release and unpacks them below root.
type debian struct {
	root string
	log  func(format string, args ...any)
}

func (d debian) unpack(ctx context.Context, packages ...string) (err error) {
	folder, err := os.MkdirTemp("", "viaduct-debs-")
	if err != nil {
		return fmt.Errorf("make a folder for packages: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	d.log("downloading %s", strings.Join(packages, " "))
	if err := d.download(ctx, folder, packages); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	if err != nil || len(debs) == 0 {
		return errors.Join(errors.New("apt-get download left no package"), err)
	}
	for _, deb := range debs {
		if err := execute(ctx, folder, "dpkg-deb", "--extract", deb, d.root); err != nil {
			return err
		}
	}
	return nil
}

// download fetches the packages as an ordinary user could: no lock is taken, no sandbox is needed. Where it fails apt's lists
// may be missing or old.
func (d debian) download(ctx context.Context, folder string, packages []string) error {
	argv := append([]string{"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)
	err := execute(ctx, folder, argv...)
	if err == nil {
		return nil
	}
	update := []string{"apt-get", "-q", "update"}
	if os.Geteuid() != 0 {
		update = append([]string{"sudo"}, update...)
	}
	if updateErr := execute(ctx, folder, update...); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	return execute(ctx, folder, argv...)
}

// find looks where the dynamic loader would: first in what was unpacked.
func (d debian) find(soname string) string {
	for _, root := range []string{d.root, "/"} {
		for _, dir := range []string{"usr/lib/" + triplet, "lib/" + triplet, "lib64"} {
			path := filepath.Join(root, dir, soname)
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return ""
}

// named are the packages whose names do not follow from their library's.
var named = map[string]string{"libmlx5.so.1": "ibverbs-providers", "libz.so.1": "zlib1g", "libcrypto.so.3": "libssl3"}

// packageOf is the Debian package of a library, by Debian's rule for names: librte_net_e1000.so.23 is in
// librte-net-e1000-23, libpcap.so.0.8 in libpcap0.8, libnl-3.so.200 in libnl-3-200.
func packageOf(soname string) string {
	name, version, _ := strings.Cut(soname, ".so.")
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	if last := name[len(name)-1]; last >= '0' && last <= '9' {
		name += "-"
	}
	return cmp.Or(named[soname], name+version)
}

func execute(ctx context.Context, dir string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
