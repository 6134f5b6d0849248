package agentapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

func TestFrameComesBack(t *testing.T) {
	want := Request{Version: Version, Plan: &Plan{
		ContainerID: "c1",
		Pod:         network.Pod{Namespace: "a", Name: "b", UID: "c"},
		Annotations: map[string]string{"k": "v"},
	}}
	var buf bytes.Buffer
	if err := WriteFrame(&buf, want); err != nil {
		t.Fatal(err)
	}
	var got Request
	if err := ReadFrame(&buf, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// No annotations passed and no annotations there are two answers; the wire must keep them apart.
func TestAnnotationsNilAndEmptyDiffer(t *testing.T) {
	for name, want := range map[string]map[string]string{"nil": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := WriteFrame(&buf, Request{Version: Version, Plan: &Plan{Annotations: want}}); err != nil {
				t.Fatal(err)
			}
			var got Request
			if err := ReadFrame(&buf, &got); err != nil {
				t.Fatal(err)
			}
			if (got.Plan.Annotations == nil) != (want == nil) {
				t.Errorf("want %#v, got %#v", want, got.Plan.Annotations)
			}
		})
	}
}

func frameOf(body string) string { return frame(uint32(len(body)), body) }

func frame(size uint32, body string) string {
	return string(binary.BigEndian.AppendUint32(nil, size)) + body
}

func TestReadFrameRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want error
	}{
		"nothing":        {"", io.EOF},
		"half a length":  {"\x00\x00", ErrFrame},
		"empty":          {frame(0, ""), ErrFrame},
		"too long":       {frame(MaxFrame+1, "{}"), ErrFrame},
		"cut short":      {frame(10, "{}"), ErrFrame},
		"not JSON":       {frame(3, "{x}"), ErrFrame},
		"of other shape": {frame(2, "[]"), ErrFrame},
	} {
		t.Run(name, func(t *testing.T) {
			var v Request
			if err := ReadFrame(strings.NewReader(tc.in), &v); !errors.Is(err, tc.want) {
				t.Errorf("want %v, got %v", tc.want, err)
			}
		})
	}
}

func TestWriteFrameRefusesWhatNobodyReads(t *testing.T) {
	var buf bytes.Buffer
	err := WriteFrame(&buf, strings.Repeat("x", MaxFrame))
	if !errors.Is(err, ErrFrame) || buf.Len() != 0 {
		t.Errorf("want ErrFrame and nothing sent, got %v and %d bytes", err, buf.Len())
	}
}

// serve answers one connection after another with answers[i], raw; the last one again and again.
func serve(t *testing.T, path string, answers ...string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var req Request
			_ = ReadFrame(conn, &req) // a client may have gone
			_, _ = io.WriteString(conn, answers[min(i, len(answers)-1)])
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func answer(t *testing.T, r Response) string {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteFrame(&buf, r); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestClientPlan(t *testing.T) {
	plan := &network.Plan{Attachments: []network.Attachment{{Name: "a/b", IfName: "net1", Config: json.RawMessage(`{}`)}}}
	good := answer(t, Response{Version: Version, Plan: plan})
	refusal := &Error{Code: 7, Message: "no such definition", Details: "a/b"}
	for name, tc := range map[string]struct {
		answers []string
		plan    *network.Plan
		code    uint  // of an *Error
		is      error // sentinel
	}{
		"a plan":                     {answers: []string{good}, plan: plan},
		"agent dies, then a plan":    {answers: []string{"", good}, plan: plan},
		"cut in the middle, then":    {answers: []string{good[:20], good}, plan: plan},
		"a refusal":                  {answers: []string{answer(t, Response{Version: Version, Error: refusal})}, code: 7},
		"an agent one newer":         {answers: []string{answer(t, Response{Version: Version + 1, Plan: plan})}, code: 11},
		"an agent one older":         {answers: []string{answer(t, Response{Version: Version - 1, Plan: plan})}, code: 11},
		"a newer one, another form":  {answers: []string{frameOf(`{"version":2,"plan":[1],"error":{"code":"x"}}`)}, code: 11},
		"keys of a later release":    {answers: []string{frameOf(`{"version":1,"later":{"x":1},"plan":{"pod":{},"later":1,"attachments":[{"name":"a/b","ifName":"net1","config":{},"later":[]}]}}`)}, plan: plan},
		"a newer agent that says so": {answers: []string{answer(t, Response{Version: 99, Error: refusal})}, code: 7},
		"no plan":                    {answers: []string{answer(t, Response{Version: Version})}, is: ErrUnavailable},
		"garbage":                    {answers: []string{frame(4, "HTTP")}, is: ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			serve(t, path, tc.answers...)
			got, err := Client{Socket: path, ConnectWait: time.Second}.Plan(t.Context(), Plan{ContainerID: "c"})
			if diff := cmp.Diff(tc.plan, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var refused *Error
			switch {
			case tc.code != 0:
				if !errors.As(err, &refused) || refused.Code != tc.code {
					t.Errorf("want code %d, got %v", tc.code, err)
				}
			case !errors.Is(err, tc.is):
				t.Errorf("want %v, got %v", tc.is, err)
			}
		})
	}
}

func TestClientWaitsForTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	type outcome struct {
		plan *network.Plan
		err  error
	}
	got := make(chan outcome, 1)
	go func() {
		p, err := Client{Socket: path}.Plan(t.Context(), Plan{})
		got <- outcome{p, err}
	}()
	select {
	case o := <-got:
		t.Fatalf("gave up at once: %v", o.err)
	case <-time.After(3 * connectPoll):
	}
	serve(t, path, answer(t, Response{Version: Version, Plan: &network.Plan{}}))
	if o := <-got; o.err != nil {
		t.Error(o.err)
	}
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A question that no frame holds is refused for good, at once, though an agent is there.
func TestClientAsksTooMuch(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, frame(2, `{}`))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	annotations := map[string]string{network.NetworksAnnotation: strings.Repeat("a,", MaxFrame)}
	_, err := Client{Socket: socket, ConnectWait: time.Hour}.Plan(ctx, Plan{Pod: network.Pod{Namespace: "shop", Name: "web"}, Annotations: annotations})
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Code != 7 || !strings.HasPrefix(refused.Error(), "pod shop/web, key "+network.NetworksAnnotation+": ") || !strings.HasSuffix(refused.Error(), "(TooLong)") {
		t.Errorf("got %v, want a refusal that names the pod and the annotation", err)
	}
	if err := (Client{Socket: socket}).Report(ctx, Report{Status: []byte(`"` + strings.Repeat("x", MaxFrame) + `"`)}); !errors.Is(err, ErrFrame) {
		t.Errorf("a report: got %v, want ErrFrame", err)
	}
}

func TestClientGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	start := time.Now()
	_, err := Client{Socket: path, ConnectWait: 200 * time.Millisecond}.Plan(t.Context(), Plan{})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("want ErrUnavailable, got %v", err)
	}
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("gave up after %v", d)
	}
	if _, err := (Client{Socket: path}).Plan(canceled(t), Plan{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("canceled: want ErrUnavailable, got %v", err)
	}
}

// A silent agent is not asked a second time, and not waited for without end.
func TestClientSilentAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts: connect succeeds all the same
	_, err = Client{Socket: path, AnswerWait: 100 * time.Millisecond}.Plan(t.Context(), Plan{})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("Plan: want ErrUnavailable, got %v", err)
	}
	start := time.Now()
	if err := (Client{Socket: path}).Report(t.Context(), Report{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Report: want ErrUnavailable, got %v", err)
	}
	if d := time.Since(start); d > ReportWait+5*time.Second {
		t.Errorf("Report took %v", d)
	}
}

// What the agent reads: whatever comes, a request of this version is what can be said again, and of another only that.
func FuzzReadRequest(f *testing.F) {
	for _, body := range []string{"{}", `{"version":1,"plan":{"containerID":"c","annotations":{}}}`, `{"version":1,"report":{"status":[]}}`, `{"version":2,"plan":7}`, `{"version":1,"plan":null}`} {
		f.Add([]byte(frameOf(body)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var req, again Request
		if ReadFrame(bytes.NewReader(data), &req) != nil {
			return
		}
		if req.Version != Version && (req.Plan != nil || req.Report != nil) {
			t.Fatalf("of version %d it reads %+v", req.Version, req)
		}
		var buf bytes.Buffer
		if err := WriteFrame(&buf, req); err != nil {
			t.Fatalf("cannot send what came in: %v", err)
		}
		said := slices.Clone(buf.Bytes())
		if err := ReadFrame(&buf, &again); err != nil {
			t.Fatal(err)
		}
		if second, err := encode(again); err != nil || !bytes.Equal(said, second) {
			t.Fatalf("%q is read as %q: %v", said, second, err)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte(frame(2, "{}")))
	f.Add([]byte(frame(31, `{"version":1,"plan":{"pod":{}}}`)))
	f.Add([]byte(frame(MaxFrame, `{"version":1`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var resp Response
		if ReadFrame(bytes.NewReader(data), &resp) != nil {
			return
		}
		// What was understood can be said again, and means the same.
		var buf bytes.Buffer
		if err := WriteFrame(&buf, resp); err != nil {
			t.Fatalf("cannot send what came in: %v", err)
		}
		said := slices.Clone(buf.Bytes())
		var again Response
		if err := ReadFrame(&buf, &again); err != nil {
			t.Fatal(err)
		}
		if second, err := encode(again); err != nil || !bytes.Equal(said, second) {
			t.Fatalf("%q is read as %q: %v", said, second, err)
		}
		switch err := check(&again); {
		case err == nil && (again.Error != nil || again.Version != Version):
			t.Fatalf("a refusal, or another version, is taken for an answer: %q", said)
		case err != nil && again.Error == nil && again.Version == Version:
			t.Fatalf("an answer is refused: %v: %q", err, said)
		}
	})
}
