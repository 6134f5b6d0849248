package network

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// spent is what f allocates, in bytes: a measure of its work that does not depend on the machine. What else the process does
// counts as well, so it is the least of some tries.
func spent(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// honest is an annotation of nearly the longest that is taken, which is accepted.
func honest() string {
	return "[" + list(`{"name":"a","cni-args":{"a":"`+strings.Repeat("x", 7000)+`"}}`, MaxAttachments) + "]"
}

func list(element string, n int) string {
	return strings.TrimSuffix(strings.Repeat(element+",", n), ",")
}

// Whatever a pod's or a definition's author writes is refused for what is wrong with it, and that costs little: what is too
// long, no more than an honest pod; what is not, but is long, no more than a few honest pods of that length.
func TestHostileInput(t *testing.T) {
	nested := func(open, leaf, shut string, n int) string {
		return strings.Repeat(open, n) + leaf + strings.Repeat(shut, n)
	}
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":1`, i)
		}
		return b.String()
	}
	routers := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"10.%d.%d.1",`, i/256, i%256)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	big := strings.Repeat("a", 10<<20)
	fill := MaxConfig - 100
	tests := map[string]struct {
		networks, config string
		reason           Reason
	}{
		"a 10 MB short form":               {networks: big, reason: TooLong},
		"a 10 MB JSON form":                {networks: `[{"name":"` + big + `"}]`, reason: TooLong},
		"10 MB of spaces and a name":       {networks: "a" + strings.Repeat(" ", 10<<20) + ",b", reason: TooLong},
		"a 10 MB configuration":            {networks: "a", config: `{"type":"x","a":"` + big + `"}`, reason: TooLong},
		"a 10 MB configuration of spaces":  {networks: "a", config: strings.Repeat(" ", 10<<20), reason: TooLong},
		"thousands of networks":            {networks: list("a", 100_000), reason: TooMany},
		"thousands of networks, in JSON":   {networks: "[" + list(`{"name":"a"}`, 20_000) + "]", reason: TooMany},
		"thousands of unknown keys":        {networks: `[{"name":"a"` + keys(20_000) + `}]`, reason: UnknownKey},
		"32 elements of unknown keys":      {networks: "[" + list(`{"name":"a"`+keys(500)+"}", 32) + "]", reason: UnknownKey},
		"many keys, then many objects":     {networks: `[{"name":"a"` + keys(10_000) + "}," + list("{}", 40_000) + "]", reason: TooMany},
		"a key twice":                      {networks: `[{"name":"a","mac":"","mac":""}]`, reason: DuplicateKey},
		"a key twice, once in disguise":    {networks: `[{"name":"a","mac":"","m\u0061c":""}]`, reason: DuplicateKey},
		"a key twice, thousands of keys":   {networks: `[{"name":"a"` + keys(20_000) + `,"k7":2}]`, reason: DuplicateKey},
		"a key of one letter not UTF-8":    {networks: "[{\"name\":\"a\",\"cni-args\":{\"\xff\":1,\"\xfe\":2}}]", reason: DuplicateKey},
		"deep":                             {networks: `[{"name":"a","cni-args":` + nested(`{"a":`, "1", "}", fill/8) + `}]`, reason: TooDeep},
		"deep arrays":                      {networks: `[{"name":"a","cni-args":{"x":` + nested("[", "", "]", fill/2-20) + `}}]`, reason: TooDeep},
		"deep, and never shut":             {networks: strings.Repeat("[", fill), reason: TooDeep},
		"a level too deep":                 {networks: nested("[", "", "]", MaxDepth+1), reason: TooDeep},
		"deeper than a decoder goes":       {networks: "a", config: nested("[", "", "]", fill/2), reason: TooDeep},
		"a deep configuration":             {networks: "a", config: `{"type":"x","a":` + nested(`{"a":`, "1", "}", fill/8) + `}`, reason: TooDeep},
		"brackets in a string":             {networks: `[{"name":"` + strings.Repeat("[{\\\"", 500) + `"}]`, reason: BadName},
		"thousands of plugins":             {networks: "a", config: `{"plugins":[` + list(`{"type":"x"}`, 15_000) + `]}`, reason: TooMany},
		"many addresses, one bad":          {networks: `[{"name":"a","ips":[` + list(`"192.0.2.1"`, MaxIPs-1) + `,"x"]}]`, reason: BadIP},
		"an address too many":              {networks: `[{"name":"a","ips":[` + list(`"192.0.2.1"`, MaxIPs+1) + `]}]`, reason: TooMany},
		"thousands of addresses":           {networks: `[{"name":"a","ips":[` + list(`"192.0.2.1"`, 15_000) + `]}]`, reason: TooMany},
		"a gateway too many":               {networks: `[{"name":"a","default-route":[` + list(`"192.0.2.1"`, MaxGateways+1) + `]}]`, reason: TooMany},
		"thousands of gateways":            {networks: `[{"name":"a","default-route":[` + routers(15_000) + `]}]`, reason: TooMany},
		"a port mapping too many":          {networks: `[{"name":"a","portMappings":[` + list(`{"hostPort":1,"containerPort":1}`, MaxPortMappings+1) + `]}]`, reason: TooMany},
		"thousands of port mappings":       {networks: `[{"name":"a","portMappings":[` + list(`{"hostPort":1,"containerPort":1}`, 7_000) + `]}]`, reason: TooMany},
		"a configuration that grows":       {networks: "a", config: `{"type":"x","a":"` + strings.Repeat("<", fill) + `"}`, reason: TooLong},
		"a list of itself":                 {networks: "a", config: `{"plugins":[` + nested(`{"plugins":[`, `{"type":"x"}`, "]}", 20) + `]}`, reason: MissingKey},
		"a list of lists, each of a type":  {networks: "a", config: `{"plugins":[{"type":"meta-cni","plugins":[{"type":"meta-cni"}]}]}`, reason: SelfDelegation},
		"a delegate to itself":             {networks: "a", config: `{"plugins":[{"type":"bridge"},{"type":"meta-cni"}]}`, reason: SelfDelegation},
		"addresses of itself":              {networks: "a", config: `{"type":"bridge","ipam":{"type":"meta-cni"}}`, reason: SelfDelegation},
		"a type with a path":               {networks: "a", config: `{"type":"../../../bin/sh"}`, reason: BadPluginType},
		"a type with a NUL":                {networks: "a", config: `{"type":"bridge\u0000x"}`, reason: BadPluginType},
		"a type of dots":                   {networks: "a", config: `{"type":".."}`, reason: BadPluginType},
		"an IPAM type with a path":         {networks: "a", config: `{"type":"bridge","ipam":{"type":"/bin/sh"}}`, reason: BadPluginType},
		"a type hidden by its case":        {networks: "a", config: `{"type":"bridge","tYpE":"sh"}`, reason: DuplicateKey},
		"a type in another case alone":     {networks: "a", config: `{"tYpE":"../sh"}`, reason: BadPluginType},
		"an interface of control bytes":    {networks: "a@\x1b[2J\x07", reason: BadInterface},
		"an interface of control bytes, 2": {networks: `[{"name":"a","interface":"\u001b[2J\n"}]`, reason: BadInterface},
		"an interface of spaces":           {networks: "a@\u00a0x", reason: BadInterface},
		"a name of slashes and dots":       {networks: "../../a", reason: BadNamespace},
		"a name of dots":                   {networks: `[{"name":".."}]`, reason: BadName},
		"a name of capitals":               {networks: "A", reason: BadName},
		"a name that no terminal can show": {networks: `[{"name":"\u202e\u0000"}]`, reason: BadName},
		"a network's name with a path":     {networks: "a", config: `{"name":"../../etc","type":"x"}`, reason: BadNetworkName},
		"not UTF-8":                        {networks: "[{\"name\":\"\xff\xfe\"}]", reason: BadName},
		"not UTF-8, in short":              {networks: "\xff\xfe", reason: BadName},
	}
	plain := nads(ParseDefinition("shop", "a", "", bridgeConf))
	normal := spent(func() { mustPlan(t, "a,a", nads(ParseDefinition("shop", "a", "", bridgeConf)), nil) })
	long := spent(func() { mustPlan(t, honest(), plain, nil) })
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var err error
			used := spent(func() {
				defs := plain
				if tt.config != "" {
					defs = nads(ParseDefinition("shop", "a", "", tt.config))
				}
				_, err = planOf(t, map[string]string{NetworksAnnotation: tt.networks}, defs, nil)
			})
			wantRefusal(t, err, "pod shop/till-0", "("+string(tt.reason)+")")
			text := err.Error()
			if len(text) > 32<<10 || strings.ContainsAny(text, "\x00\x07\x1b\u202e") {
				t.Errorf("a message of %d bytes: %.400q", len(text), text)
			}
			// Far less than the input, and more than the race detector's runtime makes of nothing.
			most := max(normal, 128<<10)
			if length := len(tt.networks) + len(tt.config); length <= MaxAnnotation && length > 1000 {
				most = 4 * long
			} else if length <= 1000 {
				most = max(4*normal, 128<<10) // to say why
			}
			if used > most {
				t.Errorf("it took %d bytes of memory in all, %d at most; an honest pod takes %d, a long one %d", used, most, normal, long)
			}
		})
	}
}

// A map that was large costs as much to clear as it held, however little is in it now: thousands of objects would do that.
func TestLargeMapsAreNotCleared(t *testing.T) {
	for size, cleared := range map[int]bool{3: true, 10_000: false} {
		m := map[string]bool{}
		for i := range size {
			m[fmt.Sprint(i)] = true
		}
		if e := emptied(m); len(e) != 0 || (len(m) == 0) != cleared {
			t.Errorf("of %d keys %d are left, in the new map %d", size, len(m), len(e))
		}
	}
}

// What is refused stays nowhere.
func TestHostileInputIsNotKept(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var kept []*Definition // as the agent keeps each
	refuse := func(n int) {
		for i := range n {
			config := fmt.Sprintf(`{"type":"x","n":%d,"a":"%s"`, i, strings.Repeat("a", MaxConfig-100))
			kept = append(kept, ParseDefinition("shop", "a", "", config), ParseDefinition("shop", "a", "", config+`","type":"y"}`),
				ParseDefinition("shop", "a", "", strings.ReplaceAll(config, "aa", "<<")+`"}`))
			_, err := planOf(t, map[string]string{NetworksAnnotation: fmt.Sprintf(`[{"name":"%d%s"}]`, i, strings.Repeat("A", MaxAnnotation-100))}, nil, nil)
			wantReason(t, err, BadName)
		}
	}
	refuse(1)
	before := heap()
	refuse(10)
	if after := heap(); after > before+1<<20 {
		t.Errorf("10 refusals of %d bytes each left %d", MaxConfig, after-before)
	}
	for _, d := range kept {
		if d.Err == nil {
			t.Fatal("it was to be refused")
		}
	}
}

// As many of each as can be asked for.
func TestLongestLists(t *testing.T) {
	var routers []string
	for i := range MaxGateways {
		routers = append(routers, fmt.Sprintf("192.0.2.%d", i+1))
	}
	a := attached(t, `"ips":[`+list(`"192.0.2.1"`, MaxIPs)+`],"portMappings":[`+list(`{"hostPort":1,"containerPort":1}`, MaxPortMappings)+
		`],"default-route":["`+strings.Join(routers, `","`)+`"]`, takesAll)
	if !cmp.Equal(a.DefaultRoute, routers) {
		t.Errorf("the gateways are %v", a.DefaultRoute)
	}
	for capability, n := range map[string]int{"ips": MaxIPs, "portMappings": MaxPortMappings} {
		if got, err := decodeList(a.Capabilities[capability]); err != nil || len(got) != n {
			t.Errorf("%s: %d go to the plugins, want %d", capability, len(got), n)
		}
	}
}

// The largest request that is accepted.
func TestLargestRequest(t *testing.T) {
	config := `{"cniVersion":"1.0.0","type":"bridge","x":"` + strings.Repeat("x", MaxPlan/MaxAttachments-200) + `"}`
	def := ParseDefinition("shop", "a", "", config)
	networks := "[" + list(`{"name":"a","cni-args":{"k":"v"}}`, MaxAttachments) + "]"
	var plan *Plan
	used := spent(func() { plan = mustPlan(t, networks, nads(def), nil) })
	if len(plan.Attachments) != MaxAttachments {
		t.Errorf("%d networks planned", len(plan.Attachments))
	}
	if used > 64<<20 {
		t.Errorf("it took %d bytes of memory in all", used)
	}
}
