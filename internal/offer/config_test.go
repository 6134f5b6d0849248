package offer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
)

func TestConfigurationIsLive(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.configure(pools(first, other))
	n.sees(resource, vf0)
	n.sees("intel.com/other", vf1)
	n.configure(pools(other))
	n.sees(resource, "-")
	n.sees("intel.com/other", vf0+" "+vf1)
	n.write("node1.json", pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.sees("intel.com/other", "-")
}

func TestFaultyConfigurationLeavesTheOldOne(t *testing.T) {
	for name, faulty := range map[string]string{"cut off": pools(all)[:20], "unknown key": pools(`{"resourceName": "x", "selectors": {"vendor": ["8086"]}}`), "empty": ""} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, pools(all))
			n.sees(resource, vf0+" "+vf1)
			n.configure(faulty)
			kubelettest.Eventually(t, "the fault is reported", func() bool { return n.offer.Status().Problem != "" })
			n.sees(resource, vf0+" "+vf1)
			kubelettest.Eventually(t, "the log says what is in force", func() bool {
				return strings.Contains(n.log.String(), "the last good configuration stays in force")
			})
			n.tells("/readyz", "configuration as it is now: line 1")
			n.configure(pools(first))
			n.sees(resource, vf0)
		})
	}
}

// Who mends a fault wants to know at once what else is odd.
func TestFaultyAndOdd(t *testing.T) {
	n := newNode(t, pools(`{"resourceName": "a", "selectors": {"Vendors": ["8086"]}}`, `{"resourceName": "b"}`))
	kubelettest.Eventually(t, "the fault and the warning are logged", func() bool {
		log := n.log.String()
		return strings.Contains(log, "the configuration is faulty") && strings.Contains(log, "it is read as vendors")
	})
	if got := strings.Count(n.log.String(), "it is read as vendors"); got != 1 {
		t.Errorf("it is said %d times", got)
	}
}

func TestFaultyFromTheStart(t *testing.T) {
	n := newNode(t, "{")
	kubelettest.Eventually(t, "not ready", func() bool { return strings.Contains(n.get("/readyz", 503), "none in force") })
	n.configure(pools(all))
	n.sees(resource, vf0+" "+vf1)
}

// A ConfigMap's folder changes as the kubelet does it: the files are links through a link to a folder, which is swapped.
func TestConfigMapSwap(t *testing.T) {
	n := prepareNode(t, "")
	swap := func(folder, config string) {
		n.check(os.Mkdir(filepath.Join(n.config, folder), 0o700))
		n.check(os.WriteFile(filepath.Join(n.config, folder, "config.json"), []byte(config), 0o600))
		n.check(os.Symlink(folder, filepath.Join(n.config, "..data_tmp")))
		n.check(os.Rename(filepath.Join(n.config, "..data_tmp"), filepath.Join(n.config, "..data")))
	}
	n.check(os.Remove(filepath.Join(n.config, "config.json")))
	n.check(os.Symlink("..data/config.json", filepath.Join(n.config, "config.json")))
	swap("..2026_11_24_1", pools(all))
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.sees(resource, vf0+" "+vf1)
	swap("..2026_11_24_2", pools(first))
	n.check(os.RemoveAll(filepath.Join(n.config, "..2026_11_24_1")))
	n.sees(resource, vf0)
	n.check(os.Remove(filepath.Join(n.config, "..data"))) // the ConfigMap was deleted
	kubelettest.Eventually(t, "the fault is reported", func() bool { return n.offer.Status().Problem != "" })
	n.sees(resource, vf0)
}

func TestReload(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	before := n.offer.Status().Generation
	n.reload <- struct{}{}
	kubelettest.Eventually(t, "the configuration is read again", func() bool { return n.offer.Status().Generation > before })
	n.sees(resource, vf0+" "+vf1)
}
