package deploy

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// What only a series' end, or its growth, tells of fires when it is to, on the node that it is to, and not before. Prometheus' own
// engine evaluates the rules as they are shipped.
func TestAlertsFire(t *testing.T) {
	rules, errs := rulefmt.ParseFile(filepath.Join(conf, "monitoring/alerts.yaml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), nil)
	if errs != nil {
		t.Fatal(errs)
	}
	expr := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			expr[r.Alert] = r.Expr
		}
	}
	const generation, synced, restored = "viaduct_device_plugin_config_generation", "viaduct_agent_synced", "viaduct_agent_cni_configuration_restored_total"
	for name, tt := range map[string]struct {
		alert  string
		series []promql.Series
		minute int
		want   []string // instances
	}{
		"all device plugins are there": {"ViaductDevicePluginGone", halfAnHour(generation), 20, nil},
		"one is gone":                  {"ViaductDevicePluginGone", halfAnHour(generation), 40, []string{"a"}},
		"it is another pod since":      {"ViaductDevicePluginGone", append(halfAnHour(generation), ofPod("second", series(generation, "a", 120, 120))), 40, nil},
		"it went long ago":             {"ViaductDevicePluginGone", halfAnHour(generation), 100, nil},
		"no device plugin":             {"ViaductDevicePluginGone", halfAnHour(synced), 20, []string{""}},
		"all agents are there":         {"ViaductAgentGone", halfAnHour(synced), 20, nil},
		"one agent is gone":            {"ViaductAgentGone", halfAnHour(synced), 40, []string{"a"}},
		"no agent":                     {"ViaductAgentGone", halfAnHour(generation), 20, []string{""}},
		"nobody takes the file":        {"ViaductCNIConfigurationTaken", halfAnHour(restored), 20, nil},
		"somebody does":                {"ViaductCNIConfigurationTaken", []promql.Series{series(restored, "a", 120, 30)}, 40, []string{"a"}},
		"somebody did":                 {"ViaductCNIConfigurationTaken", []promql.Series{series(restored, "a", 120, 30)}, 60, nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
			defer engine.Close()
			query, err := engine.NewInstantQuery(t.Context(), serving(tt.series), nil, expr[tt.alert], time.UnixMilli(0).Add(time.Duration(tt.minute)*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			defer query.Close()
			result := query.Exec(t.Context())
			vector, ok := result.Value.(promql.Vector)
			if result.Err != nil || !ok {
				t.Fatalf("%v: %v", result.Value, result.Err)
			}
			var got []string
			for _, sample := range vector {
				got = append(got, sample.Metric.Get("instance"))
			}
			slices.Sort(got)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("it fires on: -want +got:\n%s", d)
			}
		})
	}
}

// halfAnHour is a metric that the node a serves for half an hour, and b for two.
func halfAnHour(metric string) []promql.Series {
	return []promql.Series{series(metric, "a", 30, 30), series(metric, "b", 120, 120)}
}

// series has a sample each minute: 1, and 2 after the minute in which it grows.
func series(metric, instance string, minutes, grows int) promql.Series {
	s := promql.Series{Metric: labels.FromStrings(model.MetricNameLabel, metric, "instance", instance)}
	for minute := range minutes + 1 {
		value := 1.0
		if minute > grows {
			value = 2
		}
		s.Floats = append(s.Floats, promql.FPoint{T: time.Duration(minute * int(time.Minute)).Milliseconds(), F: value})
	}
	return s
}

// ofPod is the series as a pod's own, where pods are what is looked for.
func ofPod(pod string, s promql.Series) promql.Series {
	s.Metric = labels.NewBuilder(s.Metric).Set("pod", pod).Labels()
	return s
}

// serving is a storage of these series.
func serving(all []promql.Series) storage.Queryable {
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			found := &seriesSet{}
			for _, s := range all {
				if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
					found.left = append(found.left, promql.NewStorageSeries(s))
				}
			}
			return found
		},
	}}
}

// A seriesSet is what a storage answers: one series after the other.
type seriesSet struct {
	at   storage.Series
	left []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.left) == 0 {
		return false
	}
	s.at, s.left = s.left[0], s.left[1:]
	return true
}

func (s *seriesSet) At() storage.Series { return s.at }

func (s *seriesSet) Err() error { return nil }

func (s *seriesSet) Warnings() annotations.Annotations { return nil }
