package controlplane

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/viaduct-sriov/viaduct/test/cluster/pki"
)

// Where things are reached. From the guest, the loopback of the control plane's network namespace is 10.0.2.2: that is how
// QEMU's user networking shows it.
const (
	localServer = "https://127.0.0.1:6443"
	GuestHost   = "10.0.2.2"
	GuestServer = "https://" + GuestHost + ":6443"
	serviceIP   = "10.96.0.1" // the first of serviceCIDR: the API server's own service
	serviceCIDR = "10.96.0.0/16"

	// ServiceServer is how pods reach the API server, through kube-proxy.
	ServiceServer = "https://" + serviceIP

	// NodeName and NodeIP are the node's, whose certificates are made here.
	NodeName = "node1"
	NodeIP   = "10.0.2.15"
)

// Secrets is a folder of keys, certificates and kubeconfigs. A cluster that is started again on it is the same cluster.
type Secrets string

// path is the file called name.
func (s Secrets) path(name string) string { return filepath.Join(string(s), name) }

// Kubeconfig is the file with which who reaches the API server from the guest. who is one of admin, kubelet, kube-proxy.
func (s Secrets) Kubeconfig(who string) string { return s.path(who + ".guest.kubeconfig") }

// HostKubeconfig is the same for those beside the API server: admin, kube-scheduler, kube-controller-manager.
func (s Secrets) HostKubeconfig(who string) string { return s.path(who + ".host.kubeconfig") }

// CA is the certificate of the authority that signed everything.
func (s Secrets) CA() string { return s.path("ca.crt") }

// Pair is the certificate and key files of who.
func (s Secrets) Pair(who string) (cert, key string) {
	return s.path(who + ".crt"), s.path(who + ".key")
}

// make fills the folder, if it is not full.
func (s Secrets) make() error {
	if _, err := os.Stat(s.path("complete")); err == nil {
		return nil
	}
	ca, err := pki.NewAuthority("viaduct-test-cluster")
	if err != nil {
		return err
	}
	accounts, err := pki.NewKey()
	if err != nil {
		return err
	}
	err = errors.Join(
		os.MkdirAll(string(s), 0o700),
		ca.Pair().Write(string(s), "ca"),
		accounts.Write(string(s), "service-accounts"),
		s.issue(ca),
	)
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("complete"), nil, 0o600)
}

// issue writes a certificate, and two kubeconfigs, for everyone who needs one.
func (s Secrets) issue(ca *pki.Authority) error {
	identities := map[string]pki.Identity{
		"etcd": {CommonName: "etcd", Hosts: []string{"127.0.0.1", "localhost"}},
		"kube-apiserver": {CommonName: "kube-apiserver", Hosts: []string{
			"127.0.0.1", GuestHost, serviceIP, "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		}},
		"kube-apiserver-kubelet-client": {CommonName: kubeletClient},
		"kubelet-server":                {CommonName: "system:node:" + NodeName, Organizations: []string{"system:nodes"}, Hosts: []string{NodeName, NodeIP}},
		"admin":                         {CommonName: "admin", Organizations: []string{"system:masters"}},
		"kubelet":                       {CommonName: "system:node:" + NodeName, Organizations: []string{"system:nodes"}},
		"kube-controller-manager":       {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":                {CommonName: "system:kube-scheduler"},
		"kube-proxy":                    {CommonName: "system:kube-proxy"},
	}
	for who, id := range identities {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		err = errors.Join(
			pair.Write(string(s), who),
			os.WriteFile(s.HostKubeconfig(who), ca.Kubeconfig(localServer, pair), 0o600),
			os.WriteFile(s.Kubeconfig(who), ca.Kubeconfig(GuestServer, pair), 0o600),
		)
		if err != nil {
			return err
		}
	}
	return nil
}
