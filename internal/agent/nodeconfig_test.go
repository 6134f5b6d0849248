package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/agent/cniconf"
	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// nodeConfig reads Multus' configuration; NODE stands for the node's folder.
func nodeConfig(t *testing.T, n *node, config string) *network.NodeConfig {
	t.Helper()
	c, err := network.ParseNodeConfig([]byte(strings.ReplaceAll(config, "NODE", filepath.Dir(n.config.NetworksDir))))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Networks that the node gives to pods, by each kind of name, come before those that a pod asks for.
func TestMultusDefaultNetworksByEachName(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putNAD("side", "", `{"cniVersion":"1.0.0","type":"macvlan"}`)
		writeFile(t, filepath.Join(n.config.NetworksDir, "1.conf"), `{"cniVersion":"1.0.0","name":"disk","type":"ptp"}`, 0o600)
		more := filepath.Join(filepath.Dir(n.config.NetworksDir), "more")
		if err := os.Mkdir(more, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(more, "1.conflist"), `{"cniVersion":"1.0.0","name":"one","plugins":[{"type":"vlan"}]}`, 0o600)
		writeFile(t, filepath.Join(more, "2.conf"), `{"cniVersion":"1.0.0","name":"two","type":"dummy"}`, 0o600)
		n.config.Node = nodeConfig(t, n, `{"multusNamespace":"shop","defaultNetworks":["side","disk","NODE/more","NODE/more/2.conf"]}`)
	})
	n.waitCached(t, pod1, networks("shop/a")) // what is on disk, too, is asked of nobody
	for namespace, want := range map[string][]string{
		"shop":        {"shop/side net1", "disk net2", "one net3", "two net4", "shop/a net5"},
		"kube-system": {"shop/a net1"},
	} {
		pod := pod1
		pod.Namespace = namespace
		plan, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod, Annotations: networks("shop/a")})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range plan.Attachments {
			got = append(got, fmt.Sprint(a.Name, " ", a.IfName))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", namespace, d)
		}
	}
	if err := os.Remove(filepath.Join(n.config.NetworksDir, "1.conf")); err != nil {
		t.Fatal(err)
	}
	n.wantCode(t, pod1, map[string]string{}, codeInvalidConfig, "defaultNetworks[1]", "shop/disk", "NoNodeNetwork")
	conf, err := os.ReadFile(filepath.Join(n.config.ConfDir, cniconf.FileName))
	if err != nil || !strings.Contains(string(conf), `"systemNamespaces"`) || !strings.Contains(string(conf), `"side"`) {
		t.Errorf("meta-cni is not told to ask: %s, %v", conf, err)
	}
	if !strings.Contains(string(conf), `"multusNamespace": "shop"`) {
		t.Errorf("vfctl is not told where definitions are: %s", conf)
	}
}

// The default network, by each kind of name, goes into the runtime's configuration, whatever else is in its folder.
func TestMultusClusterNetworkByEachName(t *testing.T) {
	for name, config := range map[string]string{
		"a definition":       `{"multusNamespace":"shop","clusterNetwork":"cluster"}`,
		"a name on the disk": `{"multusNamespace":"shop","clusterNetwork":"on-disk"}`,
		"a file":             `{"clusterNetwork":"NODE/networks/1.conf"}`,
		"a folder":           `{"clusterNetwork":"NODE/networks"}`,
		"in the file itself": `{"delegates":[{"cniVersion":"1.0.0","name":"on-disk","type":"flannel"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, func(n *node) {
				n.api.putNAD("cluster", "", `{"cniVersion":"1.0.0","type":"flannel"}`)
				writeFile(t, filepath.Join(n.config.NetworksDir, "1.conf"), `{"cniVersion":"1.0.0","name":"on-disk","type":"flannel"}`, 0o600)
				n.config.Node = nodeConfig(t, n, config)
			})
			conf, err := os.ReadFile(filepath.Join(n.config.ConfDir, cniconf.FileName))
			if err != nil || !strings.Contains(string(conf), "flannel") || strings.Contains(string(conf), "bridge") {
				t.Errorf("got %s, %v", conf, err)
			}
		})
	}
}

// A default network that is a definition of the cluster follows its changes, and one that is on disk needs no API server.
func TestClusterNetworkFollows(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.api.putNAD("cluster", "", `{"cniVersion":"1.0.0","type":"flannel"}`)
		n.config.Node = nodeConfig(t, n, `{"multusNamespace":"shop","clusterNetwork":"cluster"}`)
	})
	time.Sleep(time.Second) // for the file that was written is a change of its folder, after which it looks again
	n.api.putNAD("cluster", "", `{"cniVersion":"1.0.0","type":"calico"}`)
	began := time.Now()
	eventually(t, func() error {
		conf, err := os.ReadFile(filepath.Join(n.config.ConfDir, cniconf.FileName))
		if err == nil && !strings.Contains(string(conf), "calico") {
			err = fmt.Errorf("after %s: %s", time.Since(began), conf)
		}
		return err
	})
	if took := time.Since(began); took > 20*time.Second { // by itself it looks every 30 s
		t.Errorf("it took %s", took)
	}
	away := newNode(t, func(n *node) {
		writeFile(t, filepath.Join(n.config.NetworksDir, "1.conf"), `{"cniVersion":"1.0.0","name":"on-disk","type":"ptp"}`, 0o600)
		n.config.Node = nodeConfig(t, n, `{"multusNamespace":"shop","clusterNetwork":"on-disk"}`)
		n.api.goAway()
	})
	away.run(t)
	eventually(t, func() error {
		_, err := os.Stat(filepath.Join(away.config.ConfDir, cniconf.FileName))
		return err
	})
}

// The file's binDir reaches meta-cni in the runtime's configuration, and its readinessindicatorfile holds that configuration
// back until the default network says that it is ready.
func TestMultusBinDirAndReadyFile(t *testing.T) {
	n := newNode(t, func(n *node) {
		n.config.MetricsAddress = freeAddress(t)
		n.config.Node = nodeConfig(t, n, `{"binDir":"/opt/further/bin","readinessindicatorfile":"NODE/net.d/ready"}`)
	})
	n.run(t)
	eventually(t, func() error {
		if _, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: map[string]string{}}); err != nil {
			return err // its metrics are served first
		}
		if _, body := get(t, n.config.MetricsAddress, "/readyz"); !strings.Contains(body, cniconf.ErrNotReady.Error()) {
			return fmt.Errorf("it says %q", body)
		}
		return nil
	})
	conf := filepath.Join(n.config.ConfDir, cniconf.FileName)
	if _, err := os.Stat(conf); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("pods are started before the default network is ready: %v", err)
	}
	writeFile(t, filepath.Join(n.config.ConfDir, "ready"), "", 0o600)
	var written struct{ Plugins []struct{ BinDir string } }
	eventually(t, func() error {
		data, err := os.ReadFile(conf)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &written)
	})
	if len(written.Plugins) != 1 || written.Plugins[0].BinDir != "/opt/further/bin" {
		t.Errorf("got %+v", written)
	}
}
