package thirdparty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// InstallPackages installs what is missing with apt-get. It needs root then, and Debian or a kin of it.
func InstallPackages(ctx context.Context, log func(format string, args ...any)) error {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil {
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

func apt(ctx context.Context, args ...string) error {
	// Two that run at the same time wait for each other.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"--quiet", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
	}
	return nil
}
