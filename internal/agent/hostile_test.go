package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// spent is what the process allocates while f runs, in bytes: of the stub's side of a question and of the agent's.
func spent(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// questions are the API server's requests since the last time, but for events, which nobody waits for.
func (n *node) questions() []string {
	return slices.DeleteFunc(n.api.requests(), func(r string) bool { return strings.HasPrefix(r, "POST ") })
}

func many(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }

// A node with hostile pods and hostile authors of definitions: each is refused for what is wrong, at the cost of an honest pod
// whose annotation is as long, in an event that can be read; nothing is kept of it, and the next pod starts.
func TestHostilePods(t *testing.T) {
	const long = 200_000
	definitions := map[string]struct {
		config string
		reason network.Reason
	}{
		"long":    {`{"type":"bridge","x":"` + strings.Repeat("x", 1<<20) + `"}`, network.TooLong},
		"deep":    {`{"type":"bridge","x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, network.TooDeep},
		"twice":   {`{"type":"bridge","Type":"sriov"}`, network.DuplicateKey},
		"path":    {`{"type":"../../tmp/x"}`, network.BadPluginType},
		"control": {`{"type":"bridge\u0007"}`, network.BadPluginType},
		"itself":  {`{"plugins":[{"type":"meta-cni"}]}`, network.SelfDelegation},
		"nested":  {`{"plugins":[{"name":"nested","plugins":[{"type":"bridge"}]}]}`, network.MissingKey},
		"many":    {`{"plugins":[` + many(`{"type":"bridge"}`, 5000) + `]}`, network.TooMany},
		"future":  {`{"cniVersion":"9.9.9","type":"bridge"}`, network.BadVersion},
	}
	annotations := map[string]struct {
		networks string
		reason   network.Reason
	}{
		"one of 4 MB":                      {strings.Repeat("a", 4_000_000), network.TooLong},
		"one of more than a frame":         {strings.Repeat("a", agentapi.MaxFrame), network.TooLong},
		"thousands of networks":            {many("a", long/2), network.TooMany},
		"thousands in JSON":                {"[" + many(`{"name":"a"}`, long/13) + "]", network.TooMany},
		"deep":                             {strings.Repeat("[", long), network.TooDeep},
		"many keys":                        {`[{"name":"a","cni-args":{` + many(`"k":1`, long/6) + `}}]`, network.DuplicateKey},
		"an interface of control bytes":    {"a@\x1b[2J\x07", network.BadInterface},
		"a name with slashes and dots":     {"../../etc", network.BadNamespace},
		"a name that no terminal can show": {`[{"name":"\u202e"}]`, network.BadName},
	}
	for name, d := range definitions {
		annotations["the definition "+name] = struct {
			networks string
			reason   network.Reason
		}{name, d.reason}
	}
	n := startNode(t, func(n *node) {
		n.config.Log = slog.New(slog.DiscardHandler)
		n.api.putNAD("a", "", `{"cniVersion":"1.0.0","type":"bridge"}`)
		for name, d := range definitions {
			n.api.putNAD(name, "", d.config)
		}
	})
	eventually(t, func() error { // so that none is asked for
		n.api.requests()
		for name := range definitions {
			_, _ = n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks(name)})
		}
		if asked := n.questions(); len(asked) > 0 {
			return fmt.Errorf("the API server was asked %v", asked)
		}
		return nil
	})
	honest := "[" + many(`{"name":"a","cni-args":{"k":"`+strings.Repeat("v", long/network.MaxAttachments-40)+`"}}`, network.MaxAttachments) + "]"
	start := func() {
		t.Helper()
		if _, err := n.client.Plan(t.Context(), agentapi.Plan{Pod: pod1, Annotations: networks(honest)}); err != nil {
			t.Fatal(err)
		}
	}
	start()
	most := 4 * spent(start) // with what informers and the race detector's runtime do meanwhile
	refuse := func(t *testing.T, value string, reason network.Reason) {
		t.Helper()
		var err error
		n.api.requests()
		used := spent(func() {
			_, err = n.client.Plan(t.Context(), agentapi.Plan{ContainerID: "c", Pod: pod1, Annotations: networks(value)})
		})
		if asked := n.questions(); len(asked) > 0 {
			t.Errorf("what is refused costs others: the API server was asked %v", asked)
		}
		refused, ok := errors.AsType[*agentapi.Error](err)
		if !ok || refused.Code != codeInvalidConfig || !strings.HasPrefix(refused.Error(), "pod shop/till-0") || !strings.Contains(refused.Error(), fmt.Sprintf("(%s)", reason)) {
			t.Fatalf("got %.1000v, want %s", err, reason)
		}
		if unseen := func(r rune) bool { return !unicode.IsPrint(r) }; len(refused.Error()) > 8<<10 || strings.ContainsFunc(refused.Error(), unseen) {
			t.Errorf("a message of %d bytes: %.1000q", len(refused.Error()), refused.Error())
		}
		if len(value) <= network.MaxAnnotation && used > most {
			t.Errorf("it took %d bytes, %d at most", used, most)
		}
	}
	for name, tc := range annotations {
		t.Run(name, func(t *testing.T) { refuse(t, tc.networks, tc.reason) })
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 30 {
		refuse(t, fmt.Sprintf(`[{"name":"%d%s"}]`, i, strings.Repeat("A", long)), network.BadName)
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d bytes are kept of 30 refused pods", after-before)
	}
	start()
	eventually(t, func() (err error) {
		n.api.set(func() {
			if len(n.api.objects["events"]) < len(annotations)-1 { // the one that is longer than a frame never came
				err = fmt.Errorf("%d events", len(n.api.objects["events"]))
			}
			for _, e := range n.api.objects["events"] {
				message := e["message"].(string)
				if len(message) > maxEventMessage || !strings.HasPrefix(message, "pod ") || strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("an event says %q", message)
				}
			}
		})
		return err
	})
}

// What a pod can make the agent ask others is bounded: for each definition that is not there one question to the API server,
// and none to the kubelet before all are.
func TestQuestionsOfAHostilePod(t *testing.T) {
	n := startNode(t, func(n *node) {
		n.config.Log = slog.New(slog.DiscardHandler)
		n.api.putNAD("a", "intel.com/sriov", sriovConf)
	})
	n.kubelet.give(pod2, "intel.com/sriov", "0000:02:10.0")
	n.waitCached(t, pod2, networks("a"))
	names, want := []string{"a"}, []string{}
	for i := range network.MaxAttachments - 2 {
		names = append(names, fmt.Sprintf("none-%02d", i))
		want = append(want, fmt.Sprintf("GET /apis/k8s.cni.cncf.io/v1/namespaces/shop/network-attachment-definitions/none-%02d", i))
	}
	names = append(names, "none-00") // twice
	n.kubelet.asked()
	for range 2 { // the kubelet tries again
		n.api.requests()
		n.wantCode(t, pod1, networks(strings.Join(names, ",")), codeInvalidConfig, "none-00", "NoDefinition")
		if d := cmp.Diff(want, slices.Sorted(slices.Values(n.questions()))); d != "" {
			t.Errorf("requests to the API server: %s", d)
		}
	}
	if asked := n.kubelet.asked(); len(asked) > 0 {
		t.Errorf("the kubelet was asked %v", asked)
	}
}
