package network

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// spent is what f allocates, in bytes: a measure of its work that does not depend on the machine.
func spent(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Whatever a pod's or a definition's author writes, the work and the message stay bounded.
func TestHostileInput(t *testing.T) {
	const most = 64 << 20 // some 250 times the longest input, which lives for the one request
	nested := func(open, leaf, shut string, n int) string {
		return strings.Repeat(open, n) + leaf + strings.Repeat(shut, n)
	}
	list := func(element string, n int) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":1`, i)
		}
		return b.String()
	}
	big := strings.Repeat("a", 10<<20)
	fill := MaxConfig - 100
	tests := map[string]struct{ networks, config string }{
		"a 10 MB short form":               {networks: big},
		"a 10 MB JSON form":                {networks: `[{"name":"` + big + `"}]`},
		"a 10 MB configuration":            {networks: "a", config: `{"type":"x","a":"` + big + `"}`},
		"thousands of networks":            {networks: list("a", 100_000)},
		"thousands of networks, in JSON":   {networks: "[" + list(`{"name":"a"}`, 20_000) + "]"},
		"thousands of unknown keys":        {networks: `[{"name":"a"` + keys(20_000) + `}]`},
		"32 elements of unknown keys":      {networks: "[" + list(`{"name":"a"`+keys(500)+"}", 32) + "]"},
		"a key twice":                      {networks: `[{"name":"a","mac":"","mac":""}]`},
		"deep":                             {networks: `[{"name":"a","cni-args":` + nested(`{"a":`, "1", "}", fill/8) + `}]`},
		"deep arrays":                      {networks: `[{"name":"a","cni-args":{"x":` + nested("[", "", "]", fill/2-20) + `}}]`},
		"deeper than a decoder goes":       {networks: "a", config: nested("[", "", "]", fill/2)},
		"a deep configuration":             {networks: "a", config: `{"type":"x","a":` + nested(`{"a":`, "1", "}", fill/8) + `}`},
		"thousands of plugins":             {networks: "a", config: `{"plugins":[` + list(`{"type":"x"}`, 15_000) + `]}`},
		"thousands of addresses, one bad":  {networks: `[{"name":"a","ips":[` + list(`"192.0.2.1"`, 15_000) + `,"x"]}]`},
		"a list of itself":                 {networks: "a", config: `{"plugins":[` + nested(`{"plugins":[`, `{"type":"x"}`, "]}", 20) + `]}`},
		"a delegate to itself":             {networks: "a", config: `{"plugins":[{"type":"bridge"},{"type":"meta-cni"}]}`},
		"a type with a path":               {networks: "a", config: `{"type":"../../../bin/sh"}`},
		"a type with a NUL":                {networks: "a", config: `{"type":"bridge\u0000x"}`},
		"an IPAM type with a path":         {networks: "a", config: `{"type":"bridge","ipam":{"type":"/bin/sh"}}`},
		"a type hidden by its case":        {networks: "a", config: `{"type":"bridge","tYpE":"sh"}`},
		"an interface of control bytes":    {networks: "a@\x1b[2J\x07"},
		"an interface of control bytes, 2": {networks: `[{"name":"a","interface":"\u001b[2J\n"}]`},
		"a name of slashes and dots":       {networks: "../../a"},
		"a name of capitals":               {networks: "A"},
		"a name that no terminal can show": {networks: `[{"name":"\u202e\u0000"}]`},
		"a network's name with a path":     {networks: "a", config: `{"name":"../../etc","type":"x"}`},
		"not UTF-8":                        {networks: "[{\"name\":\"\xff\xfe\"}]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var err error
			if tt.config == "" {
				tt.config = bridgeConf
			}
			used := spent(func() {
				_, err = planOf(t, map[string]string{NetworksAnnotation: tt.networks}, nads(ParseDefinition("shop", "a", "", tt.config)), nil)
			})
			wantRefusal(t, err, "pod shop/till-0")
			text := err.Error()
			if len(text) > 32<<10 || strings.ContainsAny(text, "\x00\x07\x1b\u202e") {
				t.Errorf("a message of %d bytes: %.400q", len(text), text)
			}
			if used > most {
				t.Errorf("it took %d bytes of memory in all, %d at most", used, most)
			}
		})
	}
}

// The largest request that is accepted costs no more than that.
func TestLargestRequest(t *testing.T) {
	config := `{"cniVersion":"1.0.0","type":"bridge","x":"` + strings.Repeat("x", MaxPlan/MaxAttachments-200) + `"}`
	def := ParseDefinition("shop", "a", "", config)
	networks := "[" + strings.TrimSuffix(strings.Repeat(`{"name":"a","cni-args":{"k":"v"}},`, MaxAttachments), ",") + "]"
	var plan *Plan
	used := spent(func() { plan = mustPlan(t, networks, nads(def), nil) })
	if len(plan.Attachments) != MaxAttachments {
		t.Errorf("%d networks planned", len(plan.Attachments))
	}
	if used > 64<<20 {
		t.Errorf("it took %d bytes of memory in all", used)
	}
}
