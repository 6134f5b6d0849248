// Package pki makes the certificates and kubeconfigs of a cluster: one authority that signs everything, and nobody who
// skips the check of a certificate.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime is a year: a cluster kept for reboot tests may be old. The hour before forgives a guest's clock.
const (
	lifetime = 365 * 24 * time.Hour
	before   = time.Hour
)

// An Authority signs certificates. CA is its own certificate, in PEM.
type Authority struct {
	CA []byte

	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	keyPEM []byte
}

// A Pair is a certificate and its private key, both in PEM.
type Pair struct {
	Cert, Key []byte
}

// An Identity is whom a certificate is for. To Kubernetes a client's user name is the common name, its groups are the
// organizations. Hosts, names or addresses, are what a server is reached by; none makes it a client's certificate only.
type Identity struct {
	CommonName    string
	Organizations []string
	Hosts         []string
}

// NewAuthority makes a self-signed authority.
func NewAuthority(name string) (*Authority, error) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-before),
		NotAfter:              time.Now().Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read authority %s back: %w", name, err)
	}
	return &Authority{CA: encode("CERTIFICATE", der), cert: cert, key: key, keyPEM: keyPEM}, nil
}

// Pair is the authority's own certificate and key, for the controller that signs requests of others.
func (a *Authority) Pair() Pair { return Pair{Cert: a.CA, Key: a.keyPEM} }

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(id Identity) (Pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.CommonName, Organization: id.Organizations},
		NotBefore:    time.Now().Add(-before),
		NotAfter:     a.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(id.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range id.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the certificate of %s: %w", id.CommonName, err)
	}
	return Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// NewKey makes a key pair without a certificate: the public key stands in Cert. Service account tokens are signed so.
func NewKey() (Pair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("encode a public key: %w", err)
	}
	return Pair{Cert: encode("PUBLIC KEY", der), Key: keyPEM}, nil
}

// Write puts the pair into dir as <name>.crt and <name>.key, the latter mode 0600.
func (p Pair) Write(dir, name string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".crt"), p.Cert, 0o644),
		os.WriteFile(filepath.Join(dir, name+".key"), p.Key, 0o600),
	)
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return key, encode("EC PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
