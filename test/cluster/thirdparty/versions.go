// Package thirdparty builds the programs of a Kubernetes node from their Go modules, once, into the cache.
package thirdparty

import (
	"os"
	"strings"
)

// The versions the cluster runs, in this one place. An environment variable overrides each for one call.
const (
	KubernetesVersion = "v1.37.2" // VIADUCT_KUBERNETES_VERSION
	ContainerdVersion = "v2.4.2"  // VIADUCT_CONTAINERD_VERSION
	EtcdVersion       = "v3.7.3"  // VIADUCT_ETCD_VERSION
	CNIPluginsVersion = "v1.9.1"  // VIADUCT_CNI_PLUGINS_VERSION
)

// A Source is a Go module and the programs that the cluster needs of it.
type Source struct {
	Name     string            // names its folder in the cache, and the programs when a person reads of them
	Module   string            // module path
	Version  string            // module version, with its v
	Packages []string          // main packages below Module; "" is its root
	Tags     string            // build tags
	LDFlags  string            // linker flags beside -s -w; they carry the version that the program says it has
	Rename   map[string]string // programs whose package is not called as they should be
}

// Sources lists what a node is made of, the smallest first.
func Sources() []Source {
	kubernetes := version("VIADUCT_KUBERNETES_VERSION", KubernetesVersion)
	containerd := version("VIADUCT_CONTAINERD_VERSION", ContainerdVersion)
	return []Source{
		{
			Name: "cni-plugins", Module: "github.com/containernetworking/plugins",
			Version: version("VIADUCT_CNI_PLUGINS_VERSION", CNIPluginsVersion),
			Packages: []string{
				"plugins/ipam/dhcp", "plugins/ipam/host-local", "plugins/ipam/static",
				"plugins/main/bridge", "plugins/main/dummy", "plugins/main/host-device", "plugins/main/ipvlan",
				"plugins/main/loopback", "plugins/main/macvlan", "plugins/main/ptp", "plugins/main/vlan",
				"plugins/meta/bandwidth", "plugins/meta/firewall", "plugins/meta/portmap", "plugins/meta/sbr",
				"plugins/meta/tuning", "plugins/meta/vrf",
			},
		},
		{
			Name: "etcd", Module: "go.etcd.io/etcd/server/v3",
			Version:  version("VIADUCT_ETCD_VERSION", EtcdVersion),
			Packages: []string{""},
			Rename:   map[string]string{"v3": "etcd", "server": "etcd"},
		},
		{
			Name: "containerd", Module: "github.com/containerd/containerd/v2", Version: containerd,
			Packages: []string{"cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"},
			Tags:     "no_btrfs no_devmapper no_zfs",
			LDFlags:  "-X github.com/containerd/containerd/v2/version.Version=" + containerd,
		},
		{
			Name: "kubernetes", Module: "k8s.io/kubernetes", Version: kubernetes,
			Packages: []string{
				"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-proxy", "cmd/kube-scheduler",
				"cmd/kubectl", "cmd/kubelet",
			},
			LDFlags: kubernetesLDFlags(kubernetes),
		},
	}
}

// kubernetesLDFlags sets what `kubelet --version` and the node's status say. Without it they say v0.0.0-master.
func kubernetesLDFlags(v string) string {
	const base = "k8s.io/component-base/version."
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	return "-X " + base + "gitVersion=" + v + " -X " + base + "gitMajor=" + major + " -X " + base + "gitMinor=" + minor
}

func version(env, otherwise string) string {
	v := os.Getenv(env)
	if v == "" {
		v = otherwise
	}
	return "v" + strings.TrimPrefix(v, "v")
}
