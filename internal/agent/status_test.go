package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A journalist is a StatusWriter at work on a folder, with the pods' informer in front of it.
type journalist struct {
	api *apiServer
	dir string
	pub *Publisher
	log said
}

// said is what is logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) count(words string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), words)
}

func startStatusWriter(t *testing.T) *journalist {
	t.Helper()
	return startStatusWriterThatLooks(t, 200*time.Millisecond)
}

// startStatusWriterThatLooks has it look at all records that often.
func startStatusWriterThatLooks(t *testing.T, period time.Duration) *journalist {
	t.Helper()
	j := &journalist{api: newAPIServer(t), dir: filepath.Join(t.TempDir(), "pods")}
	kube, err := NewKube(j.api.config(), "node-1", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	j.pub = &Publisher{Kube: kube}
	w := &StatusWriter{Dir: j.dir, Publisher: j.pub, Log: slog.New(slog.NewTextHandler(io.MultiWriter(testWriter{t}, &j.log), nil)), Settle: 20 * time.Millisecond, Period: period}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- kube.Run(ctx) }()
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	return j
}

// record writes what the stub leaves of a pod with the default network alone, with this address.
func (j *journalist) record(t *testing.T, key string, pod network.Pod, phase delegate.Phase, address string) {
	t.Helper()
	result := fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}],"ips":[{"address":%q,"interface":0}]}`, address)
	r := delegate.Record{ContainerID: key, Pod: pod, IfName: "eth0", Phase: phase, Attachments: []delegate.Attached{{
		Attachment: network.Attachment{Name: "pods", IfName: "eth0", IsDefault: true, Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`)},
		Phase:      phase, Result: json.RawMessage(result),
	}}}
	store := delegate.Records(j.dir)
	write := store.Write
	if _, err := store.Age(key); err == nil {
		write = store.Advance
	}
	if err := write(key, r); err != nil {
		t.Fatal(err)
	}
}

func (j *journalist) wantStatus(t *testing.T, pod network.Pod, word string) {
	t.Helper()
	eventually(t, func() error {
		if got := j.api.annotation(pod, network.StatusAnnotation); !strings.Contains(got, word) {
			return fmt.Errorf("status %q does not hold %q", got, word)
		}
		return nil
	})
}

func TestStatusFromJournal(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.api.putPod(pod2, nil)
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	j.record(t, "c2", pod2, delegate.Adding, "192.0.2.2/24")
	j.wantStatus(t, pod1, "192.0.2.1")
	if got := j.api.annotation(pod2, network.StatusAnnotation); got != "" {
		t.Errorf("a pod whose networks are not all there has a status: %s", got)
	}
	j.record(t, "c2", pod2, delegate.Added, "192.0.2.2/24")
	j.wantStatus(t, pod2, "192.0.2.2")
	if d := cmp.Diff([]string{"PATCH /api/v1/namespaces/shop/pods/till-0/status", "PATCH /api/v1/namespaces/shop/pods/till-1/status"}, j.api.requests()); d != "" {
		t.Errorf("one write a pod, no read: %s", d)
	}
}

// The folder of records is made for the node's first pod. Its status does not wait for the next look at all of them.
func TestStatusOfTheFirstPod(t *testing.T) {
	j := startStatusWriterThatLooks(t, time.Hour)
	j.api.putPod(pod1, nil)
	j.cached(t, pod1)
	j.record(t, "c1", pod1, delegate.Adding, "192.0.2.1/24")
	time.Sleep(10 * 20 * time.Millisecond) // it has been looked at by now; else it is looked at once, later
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	j.wantStatus(t, pod1, "192.0.2.1")
}

// cached waits until the informer has the pod.
func (j *journalist) cached(t *testing.T, pod network.Pod) {
	t.Helper()
	eventually(t, func() error {
		if j.pub.Kube.cachedPod(pod) == nil {
			return errors.New("not cached")
		}
		return nil
	})
}

// What was reported already is not written again, though the journal has it too.
func TestStatusAfterReport(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.cached(t, pod1)
	j.record(t, "c1", pod1, delegate.Adding, "192.0.2.1/24")
	var r delegate.Record
	if err := delegate.Records(j.dir).Read("c1", &r); err != nil {
		t.Fatal(err)
	}
	r.Phase = delegate.Added
	status, err := r.NetworkStatus()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.pub.Report(t.Context(), overTheWire(t, agentapi.Report{Pod: pod1, Status: status})); err != nil {
		t.Fatal(err)
	}
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	j.api.putPod(pod2, nil)
	j.record(t, "c2", pod2, delegate.Added, "192.0.2.2/24") // is looked at after c1
	j.wantStatus(t, pod2, "192.0.2.2")
	if asked := j.api.requests(); len(asked) != 2 {
		t.Errorf("requests: %v, want one for each pod", asked)
	}
}

// overTheWire is how a report reaches the agent.
func overTheWire(t *testing.T, sent agentapi.Report) (got agentapi.Report) {
	t.Helper()
	var wire bytes.Buffer
	if err := errors.Join(agentapi.WriteFrame(&wire, sent), agentapi.ReadFrame(&wire, &got)); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestStatusWaitsForTheAPIServer(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	j.wantStatus(t, pod1, "192.0.2.1")
	j.api.goAway()
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.9/24")
	eventually(t, func() error {
		var left int
		j.api.set(func() { left = len(j.api.watchers) })
		if left > 0 {
			return errors.New("still watched")
		}
		return nil
	})
	j.api.comeBack()
	j.wantStatus(t, pod1, "192.0.2.9")
}

// What the API server does not let through is said, once, and tried until it does.
func TestStatusRefusedByAPolicy(t *testing.T) {
	j := startStatusWriter(t)
	j.api.set(func() { j.api.policy = "pods are not to be annotated on Sundays" })
	j.api.putPod(pod1, nil)
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	tries := 0
	eventually(t, func() error {
		if tries += len(j.api.requests()); tries < 2 {
			return fmt.Errorf("%d tries", tries)
		}
		return nil
	})
	if n := j.log.count("on Sundays"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	j.api.set(func() { j.api.policy = "" })
	j.wantStatus(t, pod1, "192.0.2.1")
}

// A record that was just written is the stub's to report yet.
func TestStatusIsNotEarly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	kube, err := NewKube(newAPIServer(t).config(), "node-1", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &StatusWriter{Dir: dir, Publisher: &Publisher{Kube: kube}, Log: testLog(t), Settle: time.Hour, newest: map[network.Pod]sandbox{}}
	j := &journalist{dir: dir}
	j.record(t, "c1", pod1, delegate.Added, "192.0.2.1/24")
	if early, err := w.publish(t.Context(), "c1"); early < 59*time.Minute || err != nil {
		t.Errorf("it is to wait for %s, %v", early, err)
	}
	if err := os.Chtimes(filepath.Join(dir, "c1.json"), time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if early, err := w.publish(t.Context(), "c1"); early != 0 || !errors.Is(err, errNotSynced) {
		t.Errorf("later it is to wait for %s, %v", early, err)
	}
}

// While an old sandbox waits for its DEL, the newest record speaks for the pod, whichever is looked at last.
func TestStatusOfTheNewestSandbox(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.record(t, "old", pod1, delegate.Added, "192.0.2.1/24")
	j.wantStatus(t, pod1, "192.0.2.1")
	j.record(t, "new", pod1, delegate.Added, "192.0.2.2/24")
	j.wantStatus(t, pod1, "192.0.2.2")
	j.api.putPod(pod2, nil)
	j.record(t, "z", pod2, delegate.Added, "192.0.2.3/24")
	j.wantStatus(t, pod2, "192.0.2.3")
	if got := j.api.annotation(pod1, network.StatusAnnotation); !strings.Contains(got, "192.0.2.2") {
		t.Errorf("an old sandbox's status: %s", got)
	}
	if err := delegate.Records(j.dir).Remove("new"); err != nil {
		t.Fatal(err)
	}
	j.wantStatus(t, pod1, "192.0.2.1")
}

// A runtime that gives no UIDs has many pods whose UID is "".
func TestStatusOfPodsWithoutUID(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.api.putPod(pod2, nil)
	j.record(t, "c2", network.Pod{Namespace: pod2.Namespace, Name: pod2.Name}, delegate.Added, "192.0.2.2/24")
	j.wantStatus(t, pod2, "192.0.2.2")
	old := filepath.Join(j.dir, "c1.json")
	j.record(t, "c1", network.Pod{Namespace: pod1.Namespace, Name: pod1.Name}, delegate.Added, "192.0.2.1/24")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	j.wantStatus(t, pod1, "192.0.2.1")
}

// A pod that is gone, or was replaced by one of its name, gets no request.
func TestStatusOfPodsThatAreGone(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	j.record(t, "c0", network.Pod{Namespace: "shop", Name: "till-0", UID: "an older uid"}, delegate.Added, "192.0.2.7/24")
	j.record(t, "c1", network.Pod{Namespace: "shop", Name: "gone", UID: "x"}, delegate.Added, "192.0.2.8/24")
	if err := os.WriteFile(filepath.Join(j.dir, "c2.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.record(t, "c3", pod1, delegate.Added, "192.0.2.9/24")
	j.wantStatus(t, pod1, "192.0.2.9")
	if d := cmp.Diff([]string{"PATCH /api/v1/namespaces/shop/pods/till-0/status"}, j.api.requests()); d != "" {
		t.Error(d)
	}
}

func TestReportRefuses(t *testing.T) {
	j := startStatusWriter(t)
	j.api.putPod(pod1, nil)
	for name, status := range map[string]string{"empty": "", "not JSON": "[", "too long": `["` + strings.Repeat("a", maxStatus) + `"]`} {
		if err := j.pub.Publish(t.Context(), pod1, json.RawMessage(status)); err == nil {
			t.Errorf("%s: published", name)
		}
	}
	if asked := j.api.requests(); len(asked) > 0 {
		t.Errorf("requests: %v", asked)
	}
}
