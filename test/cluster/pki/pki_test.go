package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// TestHandshake has both sides check each other, as everybody in the cluster does.
func TestHandshake(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	server := Identity{CommonName: "kube-apiserver", Hosts: []string{"10.0.2.2", "kubernetes"}}
	user := Identity{CommonName: "system:node:node1", Organizations: []string{"system:nodes"}}
	tests := []struct {
		name   string
		dialed string
		server Pair
		client Pair
		ok     bool
	}{
		{"by address", "10.0.2.2", issue(t, ours, server), issue(t, ours, user), true},
		{"by name", "kubernetes", issue(t, ours, server), issue(t, ours, user), true},
		{"by an address that is not the server's", "10.0.2.3", issue(t, ours, server), issue(t, ours, user), false},
		{"server of another authority", "10.0.2.2", issue(t, theirs, server), issue(t, ours, user), false},
		{"client of another authority", "10.0.2.2", issue(t, ours, server), issue(t, theirs, user), false},
		{"client's certificate on a server", "10.0.2.2", issue(t, ours, user), issue(t, ours, user), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen, err := handshake(t.Context(), ours, tt.dialed, tt.server, tt.client)
			if (err == nil) != tt.ok {
				t.Fatalf("handshake: %v; want success: %v", err, tt.ok)
			}
			if tt.ok && (seen.CommonName != user.CommonName || !slices.Equal(seen.Organization, user.Organizations)) {
				t.Errorf("the server saw %v, want %+v", seen, user)
			}
		})
	}
}

// handshake returns the client's subject as the server sees it.
func handshake(ctx context.Context, trusted *Authority, dialed string, server, client Pair) (subject pkix.Name, err error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted.CA)
	serverCert, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		return subject, err
	}
	clientCert, err := tls.X509KeyPair(client.Cert, client.Key)
	if err != nil {
		return subject, err
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		subject = r.TLS.PeerCertificates[0].Subject
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert}
	s.StartTLS()
	defer s.Close()
	c := http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{clientCert}, ServerName: dialed},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return subject, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return subject, err
	}
	return subject, resp.Body.Close()
}

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, id Identity) Pair {
	t.Helper()
	p, err := a.Issue(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
