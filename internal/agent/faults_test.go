package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/test/cluster/pki"
)

func podNumber(i int) network.Pod {
	return network.Pod{Namespace: "shop", Name: fmt.Sprintf("till-%d", i), UID: fmt.Sprintf("uid-%d", i)}
}

// start does what the stub does for one pod with a network: it asks, and reports.
func (n *node) startPod(t *testing.T, pod network.Pod) error {
	t.Helper()
	plan, err := n.client.Plan(t.Context(), agentapi.Plan{ContainerID: pod.UID, Pod: pod})
	if err != nil {
		return err
	}
	if len(plan.Attachments) != 1 {
		return fmt.Errorf("got %d networks", len(plan.Attachments))
	}
	return n.client.Report(t.Context(), agentapi.Report{Pod: pod, Status: json.RawMessage(`[{"name":"shop/a"}]`)})
}

// At 300 ms for each call to the API server every pod starts at its first try, even those that no informer knows yet.
func TestSlowAPIServer(t *testing.T) {
	const pods = 50
	n := startNode(t, func(n *node) {
		n.config.LookupTimeout = 0 // as shipped
		n.api.hidden["shop/late"] = true
		n.api.putNAD("late", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		for i := range pods {
			n.api.hidden["shop/"+podNumber(i).Name] = true
			n.api.putPod(podNumber(i), networks("late"))
		}
	})
	n.api.set(func() { n.api.delay = 300 * time.Millisecond })
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			if err := n.startPod(t, podNumber(i)); err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range pods {
		if n.api.annotation(podNumber(i), network.StatusAnnotation) == "" {
			t.Errorf("pod %d has no status", i)
		}
	}
}

// An API server that takes calls and never answers: cached pods start as ever, the others are told to come again, when their time is
// over and not when the API server's is.
func TestHangingAPIServer(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.config.LookupTimeout = 200 * time.Millisecond
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putPod(pod1, networks("a"))
		n.api.hidden["shop/"+pod2.Name] = true
		n.api.putPod(pod2, networks("a"))
	})
	n.waitCached(t, pod1, nil)
	n.api.set(func() { n.api.delay = time.Hour })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := n.client.Plan(ctx, agentapi.Plan{Pod: pod1}); err != nil {
		t.Errorf("a cached pod: %v", err)
	}
	_, err := n.client.Plan(ctx, agentapi.Plan{Pod: pod2})
	if refusal, ok := errors.AsType[*agentapi.Error](err); !ok || refusal.Code != types.ErrTryAgainLater || !strings.Contains(refusal.Message, pod2.Name) {
		t.Errorf("a pod that nobody knows: %v", err)
	}
}

// An API server that comes and goes: cached pods start at each try, the others at one of them, and no status is lost.
func TestFlappingAPIServer(t *testing.T) {
	const pods = 20
	n := startNode(t, func(n *node) {
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putPod(pod1, networks("a"))
		for i := range pods {
			n.api.hidden["shop/"+podNumber(i+2).Name] = true
			n.api.putPod(podNumber(i+2), networks("a"))
		}
	})
	n.waitCached(t, pod1, nil)
	ctx, stop := context.WithCancel(t.Context())
	var flapping sync.WaitGroup
	flapping.Go(func() {
		for ctx.Err() == nil {
			n.api.goAway()
			time.Sleep(20 * time.Millisecond)
			n.api.comeBack()
			time.Sleep(20 * time.Millisecond)
		}
	})
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			eventually(t, func() error { return n.startPod(t, podNumber(i+2)) })
			if _, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1}); err != nil {
				t.Errorf("a pod that is cached: %v", err)
			}
		})
	}
	wg.Wait()
	stop()
	flapping.Wait()
	n.api.putNAD("b", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	n.waitCached(t, pod1, networks("b"))
}

// secure is what stands between the agent and the API server in a cluster: a certificate and a token. Both are rotated.
type secure struct {
	token   atomic.Value
	cert    atomic.Pointer[tls.Certificate]
	refused atomic.Int32
}

// secure puts the API server, which must not be in use yet, behind both.
func (s *apiServer) secure(by *secure) {
	s.http.Close()
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+by.token.Load().(string) {
			by.refused.Add(1)
			refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
			return
		}
		s.serve(w, r)
	}))
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.http.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*by.cert.Load()}}, nil
	}}
	s.http.StartTLS()
}

// startSecureNode runs an agent against an API server that is behind by, with the definition a and a pod that names it, and
// returns how to rotate: the token and the API server's certificate, by any authority, are new then, and so are the files that
// the kubelet keeps in the agent's pod.
func startSecureNode(t *testing.T, by *secure, ca *pki.Authority) (n *node, rotate func(ca *pki.Authority, token string)) {
	t.Helper()
	dir := t.TempDir()
	tokenFile, caFile := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	rotate = func(ca *pki.Authority, token string) {
		t.Helper()
		pair, issueErr := ca.Issue(pki.Identity{CommonName: "kube-apiserver", Hosts: []string{"127.0.0.1"}})
		cert, pairErr := tls.X509KeyPair(pair.Cert, pair.Key)
		if bad := errors.Join(issueErr, pairErr); bad != nil {
			t.Fatal(bad)
		}
		by.cert.Store(&cert)
		by.token.Store(token)
		writeFile(t, tokenFile, token, 0o600)
		writeFile(t, caFile, string(ca.CA), 0o600)
	}
	rotate(ca, "first")
	n = startNode(t, func(n *node) {
		n.api.secure(by)
		n.config.API = &rest.Config{Host: n.api.http.URL, BearerTokenFile: tokenFile, TLSClientConfig: rest.TLSClientConfig{CAFile: caFile}}
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		n.api.putPod(pod1, networks("a"))
	})
	n.waitCached(t, pod1, nil)
	return n, rotate
}

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("cluster")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// A pod's service-account token and the API server's certificate are rotated under the agent.
func TestRotation(t *testing.T) {
	var s secure
	ca := newAuthority(t)
	n, rotate := startSecureNode(t, &s, ca)
	rotate(ca, "second")
	n.api.http.CloseClientConnections()
	n.api.putNAD("b", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	n.waitCached(t, pod1, networks("b")) // the watches are back
	eventually(t, func() error {
		return n.client.Report(t.Context(), agentapi.Report{Pod: pod1, Status: json.RawMessage(`[{"name":"shop/b"}]`)})
	})
	if s.refused.Load() == 0 {
		t.Error("the old token was never refused: this test shows nothing")
	}
}

func startKube(t testing.TB, api *apiServer) *Kube {
	t.Helper()
	kube, err := NewKube(api.config(), "node-1", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- kube.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() error {
		if !kube.Synced() {
			return errors.New("not synced")
		}
		return nil
	})
	return kube
}

// A watch that breaks goes on where the last bookmark was; one that the API server has forgotten begins anew, and sees
// what it has missed.
func TestWatchGoesOn(t *testing.T) {
	api := newAPIServer(t)
	api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	kube := startKube(t, api)
	at := api.bookmark(nadPath)
	eventually(t, func() error {
		if got := kube.nads.LastSyncResourceVersion(); got != at {
			return fmt.Errorf("at %s, the bookmark says %s", got, at)
		}
		return nil
	})
	api.set(func() { api.began = nil })
	api.http.CloseClientConnections()
	began := func() (all []string) {
		api.set(func() { all = slices.Clone(api.began) })
		return all
	}
	eventually(t, func() error {
		if all := began(); !slices.Contains(all, "watch "+nadPath+" from "+at) {
			return fmt.Errorf("began %v", all)
		}
		return nil
	})
	for _, b := range began() {
		if strings.HasPrefix(b, "list") || strings.HasPrefix(b, "all") {
			t.Errorf("everything was sent again: %s", b)
		}
	}
	api.goAway()
	eventually(t, func() error {
		left := 0
		if api.set(func() { left = len(api.watchers) }); left > 0 {
			return errors.New("still watched")
		}
		return nil
	})
	api.putNAD("b", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	api.remove(nadPath, "shop/a")
	api.set(func() { api.expired = true })
	api.comeBack()
	eventually(t, func() error {
		if got := kube.nads.GetStore().ListKeys(); !slices.Equal(got, []string{"shop/b"}) {
			return fmt.Errorf("knows %v", got)
		}
		return nil
	})
}

// A thousand pods come and go, eight at a time: none fails, and the agent keeps nothing of them.
func TestAgentChurn(t *testing.T) {
	const warm, pods = 200, 1000
	n := startNode(t, func(n *node) {
		n.config.Log = slog.New(slog.DiscardHandler)
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
	})
	n.waitCached(t, pod1, networks("a"))
	churn := func(from, to int) {
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := from + worker; i < to; i += 8 {
					n.api.putPod(podNumber(i), networks("a"))
					if err := n.startPod(t, podNumber(i)); err != nil {
						t.Errorf("pod %d: %v", i, err)
					}
					n.api.remove(podPath, "shop/"+podNumber(i).Name)
				}
			})
		}
		wg.Wait()
		n.api.requests()
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	churn(0, warm)
	goroutines, before := runtime.NumGoroutine(), heap()
	churn(warm, pods)
	after := heap()
	t.Logf("after %d pods %d goroutines and %d bytes, after %d pods %d and %d", warm, goroutines, before, pods, runtime.NumGoroutine(), after)
	if now := runtime.NumGoroutine(); now > goroutines+20 { // connections come and go
		t.Errorf("%d goroutines, were %d", now, goroutines)
	}
	if after > before+2<<20 {
		t.Errorf("%d bytes, were %d", after, before)
	}
}
