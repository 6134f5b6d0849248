package thirdparty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A debianPackage is what cannot be built from a Go module without a C toolchain, or is no Go.
type debianPackage struct {
	name    string
	program string // found on PATH if it is installed
}

var packages = []debianPackage{
	{"runc", "runc"},              // containerd runs containers with it
	{"nftables", "nft"},           // kube-proxy and the bridge plugin set their rules with it
	{"busybox-static", "busybox"}, // becomes the pods' image
}

// InstallPackages installs what is missing with apt-get. It needs root or sudo then, and Debian or a kin of it.
func InstallPackages(ctx context.Context, log func(format string, args ...any)) error {
	var missing []string
	for _, p := range packages {
		if !installed(p.program) {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s missing, and there is no apt-get to install it with: install it and try again", strings.Join(missing, ", "))
	}
	log("installing %s", strings.Join(missing, ", "))
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if apt(ctx, install...) == nil {
		return nil
	}
	// Its lists may be missing or old.
	if err := errors.Join(apt(ctx, "update"), apt(ctx, install...)); err != nil {
		return fmt.Errorf("install %s: %w", strings.Join(missing, ", "), err)
	}
	return nil
}

// installed looks where Debian puts programs, too: an ordinary user's PATH may lack sbin.
func installed(program string) bool {
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return true
		}
	}
	_, err := exec.LookPath(program)
	return err == nil
}

func apt(ctx context.Context, args ...string) error {
	// Two that run at the same time wait for each other.
	argv := append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300"}, args...)
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = os.Stdin // sudo may ask for a password
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
	}
	return nil
}
