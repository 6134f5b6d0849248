package deploy

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// inCode is every metric of ours in the sources, with its labels.
func inCode(t *testing.T) map[string][]string {
	t.Helper()
	metrics := map[string][]string{}
	name := regexp.MustCompile(`(namespace\+"|"viaduct_agent_)(\w+)"`)
	label := regexp.MustCompile(`\[\]string\{([^}]*)\}`)
	for path, prefix := range map[string]string{
		"../../internal/offer/metrics.go": "viaduct_device_plugin_", "../../internal/agent/metrics.go": "viaduct_agent_",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		source := strings.ReplaceAll(string(text), "namespace + ", "namespace+")
		at := name.FindAllStringSubmatchIndex(source, -1)
		for i, m := range at {
			end := len(source) // the labels stand between this name and the next
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			labels := []string{"instance", "job", "le"}
			if l := label.FindStringSubmatch(source[m[0]:end]); l != nil {
				labels = append(labels, strings.Split(strings.NewReplacer(`"`, "", " ", "").Replace(l[1]), ",")...)
			}
			metrics[prefix+source[m[4]:m[5]]] = labels
		}
	}
	if len(metrics) < 15 {
		t.Fatalf("only %d metrics found: %v", len(metrics), metrics)
	}
	return metrics
}

// An expression parses, and its metrics and labels are there. It returns the metrics.
func checkExpression(t *testing.T, where, text string, known map[string][]string) (used []string) {
	t.Helper()
	text = strings.NewReplacer("$node", ".*", "$__rate_interval", "5m").Replace(text)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, text)
		return nil
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		name := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(selector.Name, "")
		labels, ok := known[name]
		if !ok {
			t.Errorf("%s: no metric is called %s", where, selector.Name)
		}
		for _, m := range selector.LabelMatchers {
			if m.Name != "__name__" && !slices.Contains(labels, m.Name) {
				t.Errorf("%s: %s has no label %s, but %v", where, name, m.Name, labels)
			}
		}
		used = append(used, name)
		return nil
	})
	if len(used) == 0 {
		t.Errorf("%s: no metric in %s", where, text)
	}
	return used
}

func TestAlerts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(conf, "monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// As Prometheus reads it: times, templates and all.
	if _, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler)); errs != nil {
		t.Error(errors.Join(errs...))
	}
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	known, names, gone := inCode(t), map[string]bool{}, map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if names[r.Alert] || r.Alert == "" {
				t.Errorf("two alerts called %q", r.Alert)
			}
			names[r.Alert] = true
			used := checkExpression(t, r.Alert, r.Expr, known)
			gone[g.Name] = gone[g.Name] || len(used) == 3 && strings.Contains(r.Expr, "unless on (instance) "+used[0]) && strings.Contains(r.Expr, "absent("+used[0]+")")
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			said := r.Annotations["summary"] + r.Annotations["action"]
			if r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("%s does not say what is wrong and what to do", r.Alert)
			}
			for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(said, -1) {
				if len(used) > 0 && !slices.Contains(known[used[0]], m[1]) {
					t.Errorf("%s: %s has no label %s", r.Alert, used[0], m[1])
				}
			}
		}
	}
	// A rule about a metric is silent when nobody serves it.
	if d := cmp.Diff(map[string]bool{"viaduct-device-plugin": true, "viaduct-meta-agent": true}, gone); d != "" {
		t.Errorf("groups that tell when their daemon is gone: -want +got:\n%s", d)
	}
}

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(conf, "monitoring/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ RefID, Expr string }
		}
		Templating struct{ List []struct{ Name string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	var variables []string
	for _, v := range dashboard.Templating.List {
		variables = append(variables, v.Name)
	}
	for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(variables, m[1]) {
			t.Errorf("the variable $%s is not defined", m[1])
		}
	}
	known, shown, places := inCode(t), map[string]bool{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if other := places[[2]int{p.GridPos.X, p.GridPos.Y}]; other != "" || p.ID == 0 {
			t.Errorf("panel %q has no place of its own: %q is there", p.Title, other)
		}
		places[[2]int{p.GridPos.X, p.GridPos.Y}] = p.Title
		for _, target := range p.Targets {
			for _, m := range checkExpression(t, p.Title, target.Expr, known) {
				shown[m] = true
			}
		}
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(shown))); d != "" {
		t.Errorf("metrics: -in the code +on the dashboard:\n%s", d)
	}
}

// The page lists each metric, with its labels, and no other.
func TestMetricsPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	onPage := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(viaduct_\\w+)` \\| (.*?) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		onPage[m[1]] = strings.NewReplacer("`", "", " ", "").Replace(m[2])
	}
	want := map[string]string{}
	for name, labels := range inCode(t) {
		want[name] = strings.Join(labels[3:], ",")
	}
	if d := cmp.Diff(want, onPage); d != "" {
		t.Errorf("-in the code +on the page:\n%s", d)
	}
}
