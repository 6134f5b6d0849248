package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A verbLog has what the verbs were called with.
type verbLog struct {
	verb string
	args CmdArgs
	fail error
}

func (l *verbLog) verbs() Verbs {
	named := func(verb string) func(*CmdArgs) error {
		return func(args *CmdArgs) error {
			l.verb, l.args = verb, *args
			return l.fail
		}
	}
	return Verbs{Add: named("ADD"), Del: named("DEL"), Check: named("CHECK"), GC: named("GC"), Status: named("STATUS")}
}

// call is one call of a plugin: what it printed, and its exit status.
func call(l *verbLog, env map[string]string, stdin string) (status int, stdout, stderr string) {
	var out, log strings.Builder
	status = program{func(name string) string { return env[name] }, strings.NewReader(stdin), &out, &log}.main(l.verbs(), func() string { return "a plugin\n" })
	return status, out.String(), log.String()
}

const conf = `{"cniVersion":"1.1.0","name":"net"}`

// environment is a whole one, changed.
func environment(verb string, change map[string]string) map[string]string {
	env := map[string]string{
		"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/a", "CNI_IFNAME": "eth0", "CNI_ARGS": "A=b", "CNI_PATH": "/opt/cni/bin",
	}
	maps.Copy(env, change)
	return env
}

func TestVerbs(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		var l verbLog
		status, stdout, stderr := call(&l, environment(verb, nil), conf)
		want := CmdArgs{"c1", "/run/netns/a", "eth0", "A=b", "/opt/cni/bin", []byte(conf), "1.1.0"}
		if d := cmp.Diff(want, l.args); status != 0 || l.verb != verb || d != "" || stdout+stderr != "" {
			t.Errorf("%s: status %d, called %s, printed %s%s: %s", verb, status, l.verb, stdout, stderr, d)
		}
	}
	// What is about no container needs none, and a DEL may come without a namespace.
	for verb, missing := range map[string]map[string]string{
		"GC": {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}, "STATUS": {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
		"DEL": {"CNI_NETNS": "", "CNI_ARGS": ""},
	} {
		var l verbLog
		if status, stdout, _ := call(&l, environment(verb, missing), conf); status != 0 || l.verb != verb {
			t.Errorf("%s without %v: status %d, %s", verb, missing, status, stdout)
		}
	}
	// Of a version before there were any.
	var l verbLog
	if status, stdout, _ := call(&l, environment("ADD", nil), `{"name":"net"}`); status != 0 || l.args.CNIVersion != "0.1.0" {
		t.Errorf("no version: status %d, %s, %+v", status, stdout, l.args)
	}
}

func TestVersionAndAbout(t *testing.T) {
	var l verbLog
	status, stdout, _ := call(&l, map[string]string{"CNI_COMMAND": "VERSION"}, "")
	var said struct {
		CNIVersion        string
		SupportedVersions []string
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil || status != 0 {
		t.Fatalf("VERSION: status %d, %v: %s", status, err, stdout)
	}
	if d := cmp.Diff([]string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, said.SupportedVersions); d != "" || said.CNIVersion != "1.1.0" {
		t.Errorf("VERSION: %s, %s", said.CNIVersion, d)
	}
	status, stdout, stderr := call(&l, nil, "")
	if status != 0 || stdout != "" || !strings.HasPrefix(stderr, "a plugin\nCNI versions: 0.1.0, ") {
		t.Errorf("without a verb: status %d, %q, %q", status, stdout, stderr)
	}
}

// What a call gets that is not as the specification says: its code, and what the runtime's log will say. No verb is called.
func TestMainRefuses(t *testing.T) {
	long := strings.Repeat("x", 16)
	tests := map[string]struct {
		verb   string
		change map[string]string
		conf   string
		code   uint
		words  string
	}{
		"unknown verb":     {"add", nil, conf, types.ErrInvalidEnvironmentVariables, `CNI_COMMAND is "add"`},
		"nothing set":      {"ADD", map[string]string{"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": ""}, conf, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"},
		"no path":          {"STATUS", map[string]string{"CNI_PATH": ""}, conf, types.ErrInvalidEnvironmentVariables, "CNI_PATH"},
		"CHECK, no netns":  {"CHECK", map[string]string{"CNI_NETNS": ""}, conf, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		"id is a path":     {"DEL", map[string]string{"CNI_CONTAINERID": "../c"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		"id is an option":  {"DEL", map[string]string{"CNI_CONTAINERID": "-c"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		"id with a zero":   {"DEL", map[string]string{"CNI_CONTAINERID": "c\x00"}, conf, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		"long interface":   {"ADD", map[string]string{"CNI_IFNAME": long}, conf, types.ErrInvalidEnvironmentVariables, long},
		"both":             {"ADD", map[string]string{"CNI_PATH": ""}, "", types.ErrInvalidEnvironmentVariables, "CNI_PATH"},
		"no JSON":          {"ADD", nil, "", types.ErrDecodingFailure, "standard input"},
		"no object":        {"ADD", nil, "[]", types.ErrDecodingFailure, "standard input"},
		"no name":          {"DEL", nil, `{"cniVersion":"1.1.0"}`, types.ErrInvalidNetworkConfig, "no name"},
		"name is a path":   {"ADD", nil, `{"name":"a/b"}`, types.ErrInvalidNetworkConfig, "a/b"},
		"version 9":        {"ADD", nil, `{"name":"a","cniVersion":"9.0.0"}`, types.ErrIncompatibleCNIVersion, "9.0.0"},
		"version no text":  {"ADD", nil, `{"name":"a","cniVersion":1}`, types.ErrDecodingFailure, "cniVersion"},
		"CHECK too early":  {"CHECK", nil, `{"name":"a","cniVersion":"0.3.1"}`, types.ErrIncompatibleCNIVersion, "CHECK"},
		"GC too early":     {"GC", nil, `{"name":"a","cniVersion":"1.0.0"}`, types.ErrIncompatibleCNIVersion, "GC"},
		"STATUS too early": {"STATUS", nil, `{"name":"a"}`, types.ErrIncompatibleCNIVersion, "STATUS"},
		"endless":          {"ADD", nil, conf + strings.Repeat(" ", MaxStdin), types.ErrInvalidNetworkConfig, "bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var l verbLog
			status, stdout, _ := call(&l, environment(tt.verb, tt.change), tt.conf)
			var told types.Error
			if err := json.Unmarshal([]byte(stdout), &told); err != nil {
				t.Fatalf("%v: %s", err, stdout)
			}
			if status != 1 || l.verb != "" || told.Code != tt.code || !strings.Contains(told.Error(), tt.words) {
				t.Errorf("status %d, called %q: %s; want code %d and %q", status, l.verb, stdout, tt.code, tt.words)
			}
		})
	}
}

// Whoever tries it at a terminal is told what is missing, and not waited for.
func TestMainAtATerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var l verbLog
	var out strings.Builder
	p := program{func(name string) string { return map[string]string{"CNI_COMMAND": "ADD"}[name] }, terminal, &out, io.Discard}
	if status := p.main(l.verbs(), nil); status != 1 || !strings.Contains(out.String(), "CNI_CONTAINERID") {
		t.Errorf("status %d: %s", status, out.String())
	}
}

// What a verb says of its failure is told as it is, with the version of the configuration.
func TestMainTellsErrors(t *testing.T) {
	own := types.NewError(101, "says", "more")
	for want, fail := range map[string]error{
		`{"cniVersion":"1.1.0","code":101,"msg":"says","details":"more"}`: fmt.Errorf("wrapped: %w", own),
		`{"cniVersion":"1.1.0","code":999,"msg":"plain"}`:                 errors.New("plain"),
	} {
		status, stdout, _ := call(&verbLog{fail: fail}, environment("ADD", nil), conf)
		if status != 1 || strings.TrimSpace(stdout) != want {
			t.Errorf("status %d, %s; want %s", status, stdout, want)
		}
	}
}

// Whatever comes: one verb at most, an error that can be read, and no path in what has become part of one.
func FuzzMain(f *testing.F) {
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "x"} {
		f.Add(verb, "c1", "eth0", "/opt/cni/bin", []byte(conf))
	}
	f.Add("ADD", "../c", "a/b", "", []byte(`{"NAME":"a/b","cniVersion":null}`))
	f.Fuzz(func(t *testing.T, verb, id, ifName, path string, stdin []byte) {
		var l verbLog
		status, stdout, _ := call(&l, map[string]string{
			"CNI_COMMAND": verb, "CNI_CONTAINERID": id, "CNI_NETNS": "/run/netns/a", "CNI_IFNAME": ifName, "CNI_PATH": path,
		}, string(stdin))
		var told types.Error
		switch {
		case status != 0 && (json.Unmarshal([]byte(stdout), &told) != nil || told.Code == 0 || told.Msg == ""):
			t.Errorf("status %d, printed %q", status, stdout)
		case status != 0 && l.verb != "", status == 0 && l.verb != verb && verb != "VERSION" && verb != "":
			t.Errorf("status %d of %q, called %q", status, verb, l.verb)
		case l.verb == "ADD" && (strings.ContainsAny(id, "/\x00") || strings.ContainsAny(ifName, "/\x00")):
			t.Errorf("called with container id %q, interface %q", id, ifName)
		}
	})
}
