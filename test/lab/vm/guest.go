package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/guest"
	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// In the guest, process 1 is a copy of the very program that called Run: it is at hand, and it speaks the same version
// of the protocol. This hook is what turns it into an init, before its own main.
func init() {
	if os.Getpid() == 1 && filepath.Base(os.Args[0]) == wire.GuestProgram {
		guest.Main()
	}
}

// hidden are the folders where the guest mounts its own file systems over the host's.
var hidden = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}

// checkVisible says whether the guest sees this path of the host.
func checkVisible(path string) error {
	for _, h := range hidden {
		if path == h || strings.HasPrefix(path, h+"/") {
			return fmt.Errorf("the guest cannot see %s: it has a %s of its own", path, h)
		}
	}
	return nil
}

// passed are the variables of this process that the command gets, beside those that start with VIADUCT_.
var passed = []string{"PATH", "HOME", "TERM", "GOCOVERDIR"}

// sbin is where Debian keeps ip, modprobe and the like; an ordinary user's PATH may lack it.
const sbin = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environ is the command's environment. Later entries win, as in os/exec. VIADUCT_LAB tells a test that it runs in the lab.
func environ(host, own []string, dir string) []string {
	env := map[string]string{}
	var order []string
	set := func(kv string) {
		k, v, _ := strings.Cut(kv, "=")
		if _, ok := env[k]; !ok {
			order = append(order, k)
		}
		env[k] = v
	}
	for _, kv := range host {
		k, _, _ := strings.Cut(kv, "=")
		for _, p := range passed {
			if k == p {
				set(kv)
			}
		}
		if strings.HasPrefix(k, "VIADUCT_") {
			set(kv)
		}
	}
	if env["PATH"] == "" {
		set("PATH=" + sbin)
	} else {
		set("PATH=" + env["PATH"] + ":" + sbin)
	}
	for _, kv := range []string{"PWD=" + dir, "USER=root", "VIADUCT_LAB=1"} {
		set(kv)
	}
	for _, kv := range own {
		set(kv)
	}
	out := make([]string, len(order))
	for i, k := range order {
		out[i] = k + "=" + env[k]
	}
	return out
}
