package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// probeTime is ample for KVM, which boots in two or three seconds, and all that a machine without one loses once.
const probeTime = 20 * time.Second

// findAccel decides between KVM and TCG: KVM only when a guest really booted with it, because there are machines where
// it starts and then dies. The answer is kept for this pair of kernels: the machine's own and the guest's.
func findAccel(ctx context.Context, c Config, p parts) (accel, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return tcg, nil // no KVM is an answer, not an error
	}
	_ = f.Close() // nothing was done with it
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return tcg, fmt.Errorf("decide how to run the guest: %w", err)
	}
	stamp := filepath.Join(c.Cache, "lab", fmt.Sprintf("accel-%s-%s", strings.TrimSpace(string(host)), p.kernel.version))
	if raw, err := os.ReadFile(stamp); err == nil && (accel(raw) == kvm || accel(raw) == tcg) {
		return accel(raw), nil
	}
	c.Log("trying whether KVM boots the guest, up to %s, once", probeTime)
	a := tcg
	bounded, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if probe(bounded, c, p, kvm) {
		a = kvm
	}
	if ctx.Err() != nil {
		return tcg, fmt.Errorf("decide how to run the guest: %w", context.Cause(ctx))
	}
	c.Log("the guest runs with %s", strings.ToUpper(string(a)))
	if err := writeFile(stamp, []byte(a)); err != nil {
		return tcg, fmt.Errorf("decide how to run the guest: %w", err)
	}
	return a, nil
}

// probe boots the initramfs alone, on the machine that tests get, and says whether it came up before ctx ended.
func probe(ctx context.Context, c Config, p parts, a accel) bool {
	c.Uplink = false
	var out bytes.Buffer
	null, err := os.Open(os.DevNull)
	if err != nil {
		return false
	}
	defer null.Close()
	args := qemuArgs(c, machine{kernel: p.kernel.image(), initramfs: p.initramfs, accel: a, portFD: -1})
	cmd := exec.CommandContext(ctx, p.tools.path[qemuName], args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, &out, &out
	err = cmd.Run()
	return err == nil && strings.Contains(out.String(), bootOK)
}
