package node

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
	"github.com/viaduct-sriov/viaduct/test/cluster/process"
)

// The daemons' configuration files, as they are.
var (
	//go:embed containerd.toml
	containerdConfig []byte
	//go:embed kubelet.yaml
	kubeletConfig []byte
	//go:embed 10-default.conflist
	defaultNetwork []byte
)

// runDir holds configuration files. It is gone with the boot.
const runDir = "/run/node"

func (c Config) startContainerd(ctx context.Context, group *process.Group) error {
	if err := os.CopyFS("/opt/cni/bin", os.DirFS(c.CNIPlugins)); err != nil && !os.IsExist(err) { // a second boot has them
		return fmt.Errorf("install the CNI plugins: %w", err)
	}
	if err := keepOrWrite("/etc/cni/net.d/10-default.conflist", defaultNetwork); err != nil {
		return err
	}
	config, err := write("containerd.toml", containerdConfig)
	if err != nil {
		return err
	}
	if err := os.Setenv("PATH", c.Containerd+":"+os.Getenv("PATH")); err != nil { // containerd finds its shim there
		return err
	}
	if err := group.StartKept("containerd", filepath.Join(c.Containerd, "containerd"), "--config", config); err != nil {
		return err
	}
	return group.Await(ctx, "containerd", time.Minute, func(ctx context.Context) error {
		return c.ctr(ctx, "version")
	})
}

func (c Config) importImages(ctx context.Context, _ *process.Group) error {
	for _, archive := range c.Images {
		// --local: not through containerd's own transfer service, which takes twice as long.
		if err := c.ctr(ctx, "--namespace", "k8s.io", "images", "import", "--local", archive); err != nil {
			return fmt.Errorf("import the images of %s: %w", archive, err)
		}
	}
	return nil
}

func (c Config) startKubelet(_ context.Context, group *process.Group) error {
	cert, key := c.Secrets.Pair("kubelet-server")
	text := strings.NewReplacer("$CA", c.Secrets.CA(), "$CERT", cert, "$KEY", key).Replace(string(kubeletConfig))
	config, err := write("kubelet.yaml", []byte(text))
	if err != nil {
		return err
	}
	return group.StartKept("kubelet", filepath.Join(c.Kubernetes, "kubelet"),
		"--config="+config, "--kubeconfig="+c.Secrets.Kubeconfig("kubelet"),
		"--hostname-override="+controlplane.NodeName, "--node-ip="+controlplane.NodeIP, "--v=2",
		"--housekeeping-interval=30s",
	)
}

func (c Config) startProxy(_ context.Context, group *process.Group) error {
	return group.Start("kube-proxy", filepath.Join(c.Kubernetes, "kube-proxy"),
		"--kubeconfig="+c.Secrets.Kubeconfig("kube-proxy"), "--hostname-override="+controlplane.NodeName,
		"--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/24",
		"--conntrack-max-per-core=0", // leave the machine's own limit
	)
}

func (c Config) ctr(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(c.Containerd, "ctr"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

func write(name string, data []byte) (path string, err error) {
	path = filepath.Join(runDir, name)
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

// keepOrWrite writes a file that is not there. One that is there may have been changed since, by what is tested.
func keepOrWrite(path string, data []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, data, 0o644)
}
