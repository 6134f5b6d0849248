// Package controlplane runs etcd, kube-apiserver, kube-controller-manager and kube-scheduler on the loopback of the network
// namespace that it finds itself in. RBAC and the node authorizer decide who may do what; every connection is TLS with
// certificates of one authority.
package controlplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/api"
	"github.com/viaduct-sriov/viaduct/test/cluster/process"
	"github.com/viaduct-sriov/viaduct/test/cluster/thirdparty"
)

// startLimit bounds the wait for one component, on a machine that is busy with other builds and VMs.
const startLimit = 2 * time.Minute

// A ControlPlane is a running one.
type ControlPlane struct {
	Secrets Secrets
	*process.Group
}

// Start brings the control plane up with its state below dir and its logs in the folder logs, and returns when the API
// server is ready. Call it from a goroutine locked to the main thread, and Stop in any case that returns no error.
func Start(ctx context.Context, cache, dir, logs string) (_ *ControlPlane, err error) {
	group, err := process.New(logs)
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{Secrets: Secrets(filepath.Join(dir, "secrets")), Group: group}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if err := c.Secrets.make(); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if err := c.startEtcd(thirdparty.Bin(cache, "etcd"), filepath.Join(dir, "etcd")); err != nil {
		return nil, err
	}
	kubernetes := thirdparty.Bin(cache, "kubernetes")
	if err := c.startAPIServer(ctx, kubernetes); err != nil {
		return nil, err
	}
	return c, c.startControllers(kubernetes)
}

func (c *ControlPlane) startEtcd(bin, data string) error {
	cert, key := c.Secrets.Pair("etcd")
	return c.Start("etcd", filepath.Join(bin, "etcd"),
		"--name=etcd", "--data-dir="+data, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=etcd=http://127.0.0.1:2380",
		"--client-cert-auth", "--trusted-ca-file="+c.Secrets.CA(), "--cert-file="+cert, "--key-file="+key,
	)
}

const (
	etcdURL       = "https://127.0.0.1:2379"
	kubeletClient = "kube-apiserver-kubelet-client"
)

// startAPIServer does not wait for etcd: the API server does.
func (c *ControlPlane) startAPIServer(ctx context.Context, bin string) error {
	s := c.Secrets
	cert, key := s.Pair("kube-apiserver")
	kubeletCert, kubeletKey := s.Pair("kube-apiserver-kubelet-client")
	accountsPublic, accountsKey := s.Pair("service-accounts")
	err := c.Start("kube-apiserver", filepath.Join(bin, "kube-apiserver"),
		"--etcd-servers="+etcdURL, "--etcd-cafile="+s.CA(), "--etcd-certfile="+cert, "--etcd-keyfile="+key,
		"--bind-address=127.0.0.1", "--secure-port=6443", "--advertise-address="+GuestHost,
		"--tls-cert-file="+cert, "--tls-private-key-file="+key, "--client-ca-file="+s.CA(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+accountsPublic, "--service-account-signing-key-file="+accountsKey,
		"--service-cluster-ip-range="+serviceCIDR,
		"--kubelet-certificate-authority="+s.CA(),
		"--kubelet-client-certificate="+kubeletCert, "--kubelet-client-key="+kubeletKey,
		"--kubelet-preferred-address-types=InternalIP",
		// Nobody is a front proxy here. Without these, whoever delegates authentication complains for ever.
		"--requestheader-client-ca-file="+s.CA(), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
	)
	if err != nil {
		return err
	}
	admin, err := s.Admin(localServer)
	if err != nil {
		return err
	}
	err = c.Await(ctx, "the API server", startLimit, func(ctx context.Context) error { return admin.Get(ctx, "/readyz", nil) })
	if err != nil {
		return err
	}
	return allowKubeletAPI(ctx, admin)
}

// Get asks the API server, with all rights, whether it has what is at path.
func (c *ControlPlane) Get(ctx context.Context, path string) error {
	admin, err := c.Secrets.Admin(localServer)
	if err != nil {
		return err
	}
	return admin.Get(ctx, path, nil)
}

// Admin is a client with all rights. server is an https URL.
func (s Secrets) Admin(server string) (*api.Client, error) {
	var files [3][]byte
	for i, name := range []string{"ca.crt", "admin.crt", "admin.key"} {
		data, err := os.ReadFile(s.path(name))
		if err != nil {
			return nil, fmt.Errorf("read the administrator's certificate: %w", err)
		}
		files[i] = data
	}
	return api.New(server, files[0], files[1], files[2])
}

func (c *ControlPlane) startControllers(bin string) error {
	s := c.Secrets
	_, accountsKey := s.Pair("service-accounts")
	caCert, caKey := s.Pair("ca")
	kubeconfig := s.HostKubeconfig("kube-controller-manager")
	err := c.Start("kube-controller-manager", filepath.Join(bin, "kube-controller-manager"),
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file="+accountsKey, "--root-ca-file="+s.CA(),
		"--cluster-signing-cert-file="+caCert, "--cluster-signing-key-file="+caKey,
	)
	if err != nil {
		return err
	}
	kubeconfig = s.HostKubeconfig("kube-scheduler")
	return c.Start("kube-scheduler", filepath.Join(bin, "kube-scheduler"),
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false",
	)
}
