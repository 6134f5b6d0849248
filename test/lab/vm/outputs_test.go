package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOutputs(t *testing.T) {
	tests := []struct {
		name      string
		argv, env []string
		want      output
	}{
		{"a program", []string{"ls", "-l"}, nil, output{}},
		{"what go test passes", []string{
			"/tmp/x.test", "-test.gocoverdir=/tmp/b/cover", "-test.v=true", "-test.outputdir=/src",
			"-test.coverprofile=/tmp/b/_cover_.out", "-test.cpuprofile=cpu.out",
		}, nil, output{dirs: []string{"/tmp/b/cover"}, files: []string{"/tmp/b/_cover_.out", "/src/cpu.out"}}},
		{
			"relative, two dashes, two words",
			[]string{"x.test", "--test.memprofile", "m.out", "-test.fuzzcachedir", "cache"},
			nil,
			output{dirs: []string{"/src/cache"}, files: []string{"/src/m.out"}},
		},
		{
			"relative output folder",
			[]string{"x.test", "-test.trace=t.out", "-test.outputdir=sub"},
			nil,
			output{files: []string{"/src/sub/t.out"}},
		},
		{"after the flags", []string{"x.test", "--", "-test.trace=t.out"}, nil, output{}},
		{"not a flag", []string{"x", "test.trace=t.out", "-trace=t"}, nil, output{}},
		{"coverage of a program, once", []string{"p"}, []string{"GOCOVERDIR=cov", "GOCOVERDIR=/src/cov"}, output{dirs: []string{"/src/cov"}}},
		{"empty", []string{"p", "-test.trace="}, []string{"GOCOVERDIR="}, output{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := outputs(tt.argv, tt.env, "/src")
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(output{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEnviron(t *testing.T) {
	host := []string{"PATH=/a", "HOME=/root", "SECRET=x", "VIADUCT_X=1=2", "TERM=vt100", "PWD=/elsewhere"}
	got := environ(host, []string{"HOME=/tmp", "A=b c", "A="}, "/src")
	want := []string{
		"PATH=/a:" + sbin, "HOME=/tmp", "VIADUCT_X=1=2", "TERM=vt100",
		"PWD=/src", "USER=root", "VIADUCT_LAB=1", "A=",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
