// Package delegatetest is a stand-in CNI plugin for tests: a real executable that writes down what it was given and does
// what its configuration says. See the command standin.
//
// Its configuration, beside CNI's own keys:
//
//	journal   the file to which it appends one Call per call, before anything else
//	effects   the folder in which ADD leaves one file and DEL removes it: what it did to the world
//	do        by verb, a list of: "fail" "hang" "garbage" "flood" "fork" "slow" "silent" "null" "crash" "child" "ipam"
//	          "alone": notes in effects, as CONTAINER.overlap, that another call on the container runs beside this one
//	          "strict": keeps its state by the container's id alone, and refuses the DEL of one that it does not know
//	code      what "fail" answers with, together with msg and stderr
//	result    what ADD prints, instead of prevResult or a result of its own
package delegatetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Call is what a stand-in was given.
type Call struct {
	Plugin      string
	Verb        string
	ContainerID string
	IfName      string
	Netns       string
	Args        string
	Path        string
	PID         int
	Env         []string
	Stdin       map[string]json.RawMessage
}

type conf struct {
	CNIVersion string              `json:"cniVersion"`
	Journal    string              `json:"journal"`
	Effects    string              `json:"effects"`
	Do         map[string][]string `json:"do"`
	Code       uint                `json:"code"`
	Msg        string              `json:"msg"`
	Stderr     string              `json:"stderr"`
	Result     json.RawMessage     `json:"result"`
	PrevResult json.RawMessage     `json:"prevResult"`
}

// Plugin is the stand-in itself. It does not return if this process is one, by its name.
func Plugin() {
	name := filepath.Base(os.Args[0])
	if !strings.HasPrefix(name, "rec-") {
		return
	}
	if effect := os.Getenv("REC_CHILD"); effect != "" {
		child(effect)
	}
	if effect := os.Getenv("REC_IPAM"); effect != "" {
		if err := act(os.Getenv("CNI_COMMAND"), effect, true); err != nil {
			fmt.Fprintln(os.Stderr, "stand-in IPAM plugin:", err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	if err := play(name); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in plugin:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

// child is what a plugin has started for itself, as bridge starts host-local: it acts until it is ended, or until no test
// can be interested any more.
func child(effect string) {
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		_ = os.WriteFile(effect, []byte(strconv.Itoa(os.Getpid())), 0o600)
		time.Sleep(time.Millisecond)
	}
	os.Exit(0)
}

// Eager in a stand-in's environment has it do what ADD does before it reads its configuration: in the folder that is its value, and
// if it serves another network than the default one.
const Eager = "REC_EAGER"

func effectIn(folder, name string) string {
	return filepath.Join(folder, fmt.Sprintf("%s-%s-%s", os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_IFNAME"), name))
}

func play(name string) error {
	verb := os.Getenv("CNI_COMMAND")
	folder := os.Getenv(Eager)
	eager := folder != "" && verb == "ADD" && os.Getenv("CNI_IFNAME") != "eth0"
	if eager {
		if err := act(verb, effectIn(folder, name), false); err != nil {
			return err
		}
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var c conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return fmt.Errorf("configuration %q: %w", stdin, err)
	}
	if err := note(c.Journal, name, verb, stdin); err != nil {
		return err
	}
	effect := effectIn(c.Effects, name)
	do := c.Do[verb]
	if c.Effects != "" && !eager {
		if err := act(verb, effect, slices.Contains(do, "slow")); err != nil {
			return err
		}
	}
	for _, what := range do {
		if err := misbehave(what, name, effect, c); err != nil {
			return err
		}
	}
	if verb != "ADD" || slices.Contains(do, "silent") {
		return nil
	}
	fmt.Print(result(name, c))
	return nil
}

func act(verb, effect string, slow bool) error {
	pause := func() {
		if slow {
			time.Sleep(5 * time.Millisecond)
		}
	}
	pause()
	switch verb {
	case "ADD": // as most plugins do, it refuses what is there already
		f, err := os.OpenFile(effect, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_ = f.Close()
	case "DEL":
		if err := os.Remove(effect); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	pause()
	return nil
}

func misbehave(what, name, effect string, c conf) error {
	switch what {
	case "fail":
		return refuse(c)
	case "hang":
		time.Sleep(time.Hour)
	case "garbage":
		fmt.Print("<html>502 Bad Gateway</html>")
		os.Exit(0)
	case "flood":
		for {
			if _, err := fmt.Print(strings.Repeat("x", 4096)); err != nil {
				os.Exit(1)
			}
		}
	case "crash":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "ipam": // what bridge does: the plugin waits for another one that acts for it
		cmd := exec.Command(os.Args[0]) //nolint:noctx // it is to outlive a killed parent
		cmd.Args[0] = name
		cmd.Env = append(os.Environ(), "REC_IPAM="+effect+".ipam")
		return cmd.Run()
	case "null":
		fmt.Print("null")
		os.Exit(0)
	case "alone":
		return alone(filepath.Join(c.Effects, os.Getenv("CNI_CONTAINERID")))
	case "strict":
		return byContainer(filepath.Join(c.Effects, os.Getenv("CNI_CONTAINERID")+"."+name))
	case "fork", "child":
		cmd := exec.Command(os.Args[0]) //nolint:noctx // it is to outlive this process
		cmd.Args[0] = name
		cmd.Env = append(os.Environ(), "REC_CHILD="+effect+".child")
		if what == "fork" {
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // it holds the plugin's output
		}
		return cmd.Start()
	}
	return nil
}

func alone(path string) error {
	err := os.Mkdir(path+".busy", 0o700)
	if os.IsExist(err) {
		return os.WriteFile(path+".overlap", nil, 0o600)
	}
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Millisecond)
	return os.Remove(path + ".busy")
}

func byContainer(state string) error {
	if os.Getenv("CNI_COMMAND") == "DEL" {
		return os.Remove(state)
	}
	f, err := os.OpenFile(state, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func refuse(c conf) error {
	if c.Stderr != "" {
		fmt.Fprint(os.Stderr, c.Stderr)
	}
	if c.Msg != "" {
		out, err := json.Marshal(map[string]any{"cniVersion": c.CNIVersion, "code": c.Code, "msg": c.Msg, "details": "details"})
		if err != nil {
			return err
		}
		fmt.Print(string(out))
	}
	os.Exit(1)
	return nil
}

func result(name string, c conf) string {
	if c.Result != nil {
		return string(c.Result)
	}
	if c.PrevResult != nil {
		return string(c.PrevResult)
	}
	return fmt.Sprintf(`{"cniVersion":%q,"interfaces":[{"name":%q,"mac":"02:00:00:00:00:01","sandbox":%q}],`+
		`"ips":[{"version":"4","interface":0,"address":"192.0.2.7/24","gateway":"192.0.2.1"}],"dns":{"domain":%q}}`,
		c.CNIVersion, os.Getenv("CNI_IFNAME"), os.Getenv("CNI_NETNS"), name+".test")
}

func note(journal, name, verb string, stdin []byte) error {
	if journal == "" {
		return nil
	}
	call := Call{
		Plugin: name, Verb: verb, ContainerID: os.Getenv("CNI_CONTAINERID"), IfName: os.Getenv("CNI_IFNAME"),
		Netns: os.Getenv("CNI_NETNS"), Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH"), PID: os.Getpid(), Env: os.Environ(),
	}
	if err := json.Unmarshal(stdin, &call.Stdin); err != nil {
		return err
	}
	line, err := json.Marshal(call)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// One write: lines of plugins that run at once do not mix. SIGKILL can cut one short, between two pages: the next begins a
	// line of its own all the same.
	if _, err := fmt.Fprintf(f, "\n%s\n", line); err != nil {
		return err
	}
	return f.Close()
}

// standIn builds the executable, once, beside the test's, which goes away with it.
var standIn = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "standin")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "github.com/viaduct-sriov/viaduct/internal/delegate/delegatetest/standin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the stand-in: %w: %s", err, out)
	}
	return path, nil
})

// Install links the stand-in as each name into dir.
func Install(t testing.TB, dir string, names ...string) {
	t.Helper()
	path, err := standIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// Calls reads what the stand-ins wrote down. One that was killed while it did so has done nothing, and is left out.
func Calls(t testing.TB, journal string) []Call {
	t.Helper()
	data, err := os.ReadFile(journal)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []Call
	for line := range strings.Lines(string(data)) {
		if line == "\n" {
			continue
		}
		var c Call
		err := json.Unmarshal([]byte(line), &c)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Offset >= int64(len(strings.TrimSuffix(line, "\n"))) {
			continue // cut short
		}
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, c)
	}
	return out
}

// Netns makes a network namespace for the test and returns its path.
func Netns(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("viaduct-%d-%d", os.Getpid(), time.Now().UnixNano())
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v: %s", err, out)
	}
	path := "/var/run/netns/" + name
	t.Cleanup(func() { RemoveNetns(t, path) })
	return path
}

// RemoveNetns removes a namespace that Netns made; one that is gone is no error.
func RemoveNetns(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return
	}
	out, err := exec.Command("ip", "netns", "del", filepath.Base(path)).CombinedOutput() //nolint:noctx // also in Cleanup
	if err != nil {
		t.Errorf("remove a network namespace: %v: %s", err, out)
	}
}
