package network

import (
	"regexp"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/cni"
)

// What a name may be, as regular expressions say it: the specifications' own (RFC 1123, the CNI specification, Kubernetes).
func FuzzNames(f *testing.F) {
	rules := map[string]struct {
		is      func(string) bool
		pattern *regexp.Regexp
	}{
		"label":    {func(s string) bool { return framed(s, lower+digit, "-") }, regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)},
		"domain":   {func(s string) bool { return isDomain(s, lower+digit, 1) }, regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)},
		"reverse":  {isReverseDomain, regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)+(/[-A-Za-z0-9_.]+)?$`)},
		"resource": {isQualified, regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)},
		"CNI":      {cni.IsName, regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)},
		"version":  {isVersion, regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$`)},
		"GUID":     {isGUID, regexp.MustCompile(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){7}$`)},
		"device":   {isDevice, regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]*$`)},
	}
	for _, s := range []string{
		"", "a", "-", "a-", "-a", "a-b", "A", "ä", "a\n", "a\x00", "a.b", "a..b", ".a", "a.", "a.b-", "a.-b", "com.example/k", "com.example/", "com/k",
		"a.b/c/d", "a.b/_", "a/b", "a./b", "a.b/c_d.e", "a/b.", "a_b", "_a", "1.2.3", "1.2", "1.2.3.4", "1.2.3333", "1..3", "a:b", "0000:02:10.0",
		"02:00:00:00:00:00:00:aF", "02:00:00:00:00:00:00", "02:00:00:00:00:00:00:00:00", "02:00:00:00:00:00:00:g0", "2:00:00:00:00:00:00:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, rule := range rules {
			if got, want := rule.is(s), rule.pattern.MatchString(s); got != want {
				t.Errorf("%q as a %s: %v, want %v", s, name, got, want)
			}
		}
	})
}
