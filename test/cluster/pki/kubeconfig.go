package pki

import (
	"encoding/base64"
	"fmt"
)

// Kubeconfig is the file with which the owner of the pair reaches the API server at server, an https URL.
func (a *Authority) Kubeconfig(server string, p Pair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: user
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: context
  context: {cluster: cluster, user: user}
current-context: context
`, server, b64(a.CA), b64(p.Cert), b64(p.Key))
}
