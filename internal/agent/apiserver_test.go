package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

const (
	nadPath = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
	podPath = "/api/v1/pods"
)

type doc = map[string]any

// An apiServer stands in for the real one: it keeps objects, lists, watches, patches with the UID as a precondition,
// counts what it is asked, and can be slow or away.
type apiServer struct {
	t        testing.TB
	http     *httptest.Server
	mu       sync.Mutex
	version  int
	objects  map[string]map[string]doc // collection → namespace/name → object
	watchers map[chan doc]string
	asked    []string // "METHOD path", watches and lists aside
	began    []string // "list COLLECTION", "all COLLECTION" and "watch COLLECTION from VERSION"
	delay    time.Duration
	away     bool
	expired  bool            // no version that a watch could go on from is remembered
	hidden   map[string]bool // objects that lists and watches leave out, as if the informer were late
	policy   string          // refuses all patches, in these words
}

func newAPIServer(t testing.TB) *apiServer {
	s := &apiServer{t: t, objects: map[string]map[string]doc{nadPath: {}, podPath: {}}, watchers: map[chan doc]string{}, hidden: map[string]bool{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.http.Start()
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

func (s *apiServer) config() *rest.Config { return &rest.Config{Host: s.http.URL} }

// goAway ends every connection and answers no more, as when the API server's host is gone; comeBack undoes it.
func (s *apiServer) goAway() {
	s.mu.Lock()
	s.away = true
	s.mu.Unlock()
	s.http.CloseClientConnections()
}

func (s *apiServer) comeBack() { s.set(func() { s.away = false }) }

func (s *apiServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *apiServer) put(collection string, obj doc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	meta := obj["metadata"].(doc)
	key := fmt.Sprint(meta["namespace"], "/", meta["name"])
	kind := "ADDED"
	if _, ok := s.objects[collection][key]; ok {
		kind = "MODIFIED"
	}
	s.store(collection, key, obj, kind)
}

func (s *apiServer) store(collection, key string, obj doc, kind string) {
	s.version++
	obj["metadata"].(doc)["resourceVersion"] = strconv.Itoa(s.version)
	s.objects[collection][key] = obj
	s.tell(collection, key, obj, kind)
}

func (s *apiServer) tell(collection, key string, obj doc, kind string) {
	for w, c := range s.watchers {
		if c == collection && !s.hidden[key] {
			w <- doc{"type": kind, "object": clone(obj)}
		}
	}
}

func (s *apiServer) remove(collection, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj := s.objects[collection][key]
	delete(s.objects[collection], key)
	s.version++
	obj["metadata"].(doc)["resourceVersion"] = strconv.Itoa(s.version)
	s.tell(collection, key, obj, "DELETED")
}

// bookmark tells those who watch the collection how far they are, and returns that version.
func (s *apiServer) bookmark(collection string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.tell(collection, "", s.mark(collection, nil), "BOOKMARK")
	return strconv.Itoa(s.version)
}

// mark is an object that says nothing but the version.
func (s *apiServer) mark(collection string, annotations doc) doc {
	kind := doc{"kind": "Pod", "apiVersion": "v1"}
	if collection == nadPath {
		kind = doc{"kind": "NetworkAttachmentDefinition", "apiVersion": "k8s.cni.cncf.io/v1"}
	}
	kind["metadata"] = doc{"resourceVersion": strconv.Itoa(s.version), "annotations": annotations}
	return kind
}

func (s *apiServer) putNAD(name, resource, config string) {
	s.put(nadPath, doc{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": doc{"namespace": "shop", "name": name, "uid": "uid-of-" + name, "annotations": doc{network.ResourceAnnotation: resource}},
		"spec":     doc{"config": config},
	})
}

func (s *apiServer) putPod(pod network.Pod, annotations map[string]string) {
	a := doc{"other": "x"}
	for k, v := range annotations {
		a[k] = v
	}
	s.put(podPath, doc{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": doc{"namespace": pod.Namespace, "name": pod.Name, "uid": pod.UID, "annotations": a},
		"spec":     doc{"nodeName": "node-1"},
	})
}

func (s *apiServer) annotation(pod network.Pod, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, ok := s.objects[podPath][pod.Namespace+"/"+pod.Name]
	if !ok {
		return ""
	}
	value, _ := obj["metadata"].(doc)["annotations"].(doc)[key].(string)
	return value
}

// requests returns and forgets what was asked, beside lists and watches.
func (s *apiServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	delay, away := s.delay, s.away
	s.mu.Unlock()
	if away {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
		return
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	collection, key, sub := split(r.URL.Path)
	switch {
	case key == "" && r.Method == http.MethodGet:
		if r.URL.Query().Get("watch") != "" {
			s.watch(w, r, collection)
			return
		}
		s.list(w, r, collection)
		return
	}
	s.set(func() { s.asked = append(s.asked, r.Method+" "+r.URL.Path) })
	switch {
	case r.Method == http.MethodGet:
		s.get(w, r, collection, key)
	case r.Method == http.MethodPatch && collection == podPath && sub == "status":
		s.patch(w, r, key)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		s.create(w, r)
	default:
		refuse(w, http.StatusForbidden, "Forbidden", r.Method+" "+r.URL.Path+" is not in the agent's role")
	}
}

// split takes a path apart: /api/v1/namespaces/NS/pods/NAME/SUB and the collections of all namespaces.
func split(path string) (collection, key, sub string) {
	for _, c := range []string{nadPath, podPath} {
		if path == c {
			return c, "", ""
		}
		base, resource := c[:strings.LastIndex(c, "/")], c[strings.LastIndex(c, "/")+1:]
		rest, ok := strings.CutPrefix(path, base+"/namespaces/")
		parts := strings.Split(rest, "/")
		if ok && len(parts) >= 3 && parts[1] == resource {
			return c, parts[0] + "/" + parts[2], strings.Join(parts[3:], "/")
		}
	}
	return "", path, ""
}

func asked(r *http.Request, obj doc, list bool) doc {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return obj
	}
	kind := "PartialObjectMetadata"
	if list {
		kind += "List"
	}
	out := doc{"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
	if list {
		items := []doc{}
		for _, o := range obj["items"].([]doc) {
			items = append(items, asked(r, o, false))
		}
		out["items"] = items
	}
	return out
}

func (s *apiServer) visible(collection string) []doc {
	var items []doc
	for _, key := range slices.Sorted(maps.Keys(s.objects[collection])) {
		if !s.hidden[key] {
			items = append(items, clone(s.objects[collection][key]))
		}
	}
	return items
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, collection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = append(s.began, "list "+collection)
	kind, version := "PodList", "v1"
	if collection == nadPath {
		kind, version = "NetworkAttachmentDefinitionList", "k8s.cni.cncf.io/v1"
	}
	answer(w, http.StatusOK, asked(r, doc{"kind": kind, "apiVersion": version, "metadata": doc{"resourceVersion": strconv.Itoa(s.version)}, "items": s.visible(collection)}, true))
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, collection string) {
	if collection == podPath && r.URL.Query().Get("fieldSelector") != "spec.nodeName=node-1" {
		s.t.Errorf("pods are watched with the field selector %q", r.URL.Query().Get("fieldSelector"))
	}
	events := make(chan doc, 4096)
	s.mu.Lock()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, o := range s.visible(collection) {
			events <- doc{"type": "ADDED", "object": o}
		}
		events <- doc{"type": "BOOKMARK", "object": s.mark(collection, doc{"k8s.io/initial-events-end": "true"})}
		s.began = append(s.began, "all "+collection)
	} else {
		from := r.URL.Query().Get("resourceVersion")
		s.began = append(s.began, "watch "+collection+" from "+from)
		if s.expired {
			s.mu.Unlock()
			refuse(w, http.StatusGone, "Expired", "too old resource version: "+from)
			return
		}
	}
	s.watchers[events] = collection
	s.mu.Unlock()
	defer s.set(func() { delete(s.watchers, events) })
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			e["object"] = asked(r, e["object"].(doc), false)
			_ = json.NewEncoder(w).Encode(e)
			_ = flush.Flush()
		}
	}
}

func (s *apiServer) get(w http.ResponseWriter, r *http.Request, collection, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, ok := s.objects[collection][key]
	if !ok {
		refuse(w, http.StatusNotFound, "NotFound", key+" not found")
		return
	}
	answer(w, http.StatusOK, asked(r, clone(obj), false))
}

// patch does what the real one does for metadata of a pod's status subresource: annotations merge, a UID that differs is
// an attempt to change what cannot change.
func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, key string) {
	var p struct {
		Metadata struct {
			UID         string            `json:"uid"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if r.Header.Get("Content-Type") != "application/merge-patch+json" || json.NewDecoder(r.Body).Decode(&p) != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", "not a merge patch")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, ok := s.objects[podPath][key]
	if !ok {
		refuse(w, http.StatusNotFound, "NotFound", "pods "+key+" not found")
		return
	}
	obj = clone(obj)
	meta := obj["metadata"].(doc)
	if s.policy != "" {
		refuse(w, http.StatusUnprocessableEntity, "Invalid", s.policy)
		return
	}
	if p.Metadata.UID != "" && p.Metadata.UID != meta["uid"] {
		refuse(w, http.StatusUnprocessableEntity, "Invalid", "metadata.uid: field is immutable")
		return
	}
	for k, v := range p.Metadata.Annotations {
		meta["annotations"].(doc)[k] = v
	}
	s.store(podPath, key, obj, "MODIFIED")
	answer(w, http.StatusOK, asked(r, clone(obj), false))
}

func (s *apiServer) create(w http.ResponseWriter, r *http.Request) {
	var e doc
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects["events"] == nil {
		s.objects["events"] = map[string]doc{}
	}
	name := e["metadata"].(doc)["name"].(string)
	if _, ok := s.objects["events"][name]; ok {
		refuse(w, http.StatusConflict, "AlreadyExists", name)
		return
	}
	s.objects["events"][name] = e
	answer(w, http.StatusCreated, e)
}

func answer(w http.ResponseWriter, code int, obj doc) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(obj)
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	answer(w, code, doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code})
}

func clone(obj doc) doc {
	data, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	var out doc
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&out); err != nil {
		panic(err)
	}
	return out
}

// eventually polls until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("still after 30 s: %v", err)
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprint(w.t.Output(), string(p))
	return len(p), nil
}

var _ io.Writer = testWriter{}
