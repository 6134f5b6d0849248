package main

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

const maxSize = 6_000_000

// The stub is started for every sandbox of the node: what it links, it pays for each time.
func TestStubIsSmall(t *testing.T) {
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("meta-cni has %.1f MB", float64(info.Size())/1e6)
	if info.Size() > maxSize {
		t.Errorf("meta-cni has %d bytes, %d at most", info.Size(), maxSize)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		for _, banned := range []string{"net/http", "crypto/tls", "k8s.io/", "google.golang.org/", "go.opentelemetry.io/", "github.com/spf13/"} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("meta-cni links %s", strings.TrimSpace(dep))
			}
		}
	}
}

func build(b *testing.B, pkg string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v: %s", pkg, err, out)
	}
	fresh(b, path)
	return path
}

// fresh takes a program out of the page cache: it comes back as after a boot, by running. What linkers and copies leave there is
// slower or faster to map, by the size of their writes: up to a fifth of a start.
func fresh(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	// What is not on the disk yet would stay.
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()); err != nil {
		b.Fatal(err)
	}
}

// samples are times of the same thing. Medians of what was taken in turn: what else the machine does hits all alike.
type samples map[string][]time.Duration

func (s samples) add(what string, took time.Duration) { s[what] = append(s[what], took) }

func (s samples) median(what string) time.Duration {
	all := slices.Sorted(slices.Values(s[what]))
	return all[len(all)/2]
}

func (s samples) report(b *testing.B, what, unit string) {
	b.ReportMetric(float64(s.median(what).Microseconds())/1000, unit)
}

// benchNode is a node whose networks are all the plugin at path.
func benchNode(b *testing.B, plugin string) *node {
	b.Helper()
	n := newNode(b)
	if err := os.Link(plugin, filepath.Join(n.bin, "noop")); err != nil {
		b.Fatal(err)
	}
	fresh(b, filepath.Join(n.bin, "meta-cni"))
	n.runDir = inMemory(b) // as /run is
	var fs unix.Statfs_t
	if err := unix.Statfs(n.state, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		b.Fatalf("the records are to be on a disk, and %s is not on one (%v): TMPDIR=/var/tmp make bench", n.state, err)
	}
	n.def = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"noop"}]}`
	return n
}

func inMemory(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "bench") //nolint:usetesting // it is to be in memory
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serviceEnv is what a runtime passes on of its own environment: what systemd gives a service.
var serviceEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "NOTIFY_SOCKET=/run/systemd/notify",
	"INVOCATION_ID=5c8f6d0c4f7f4f0c9a1f3b6f2f6d7e11", "JOURNAL_STREAM=8:26571", "SYSTEMD_EXEC_PID=812",
}

// bare starts a program and waits for its end. It returns how long that took.
func (n *node) bare(path, verb, conf string) time.Duration {
	n.t.Helper()
	cmd := n.command(verb)
	cmd.Path = path
	return n.onFiles(cmd, conf)
}

// onFiles gives the program files for its input and output: pipes would cost the test more than some programs cost. What it takes
// to make them is not in the time that it returns.
func (n *node) onFiles(cmd *exec.Cmd, stdin string) time.Duration {
	n.t.Helper()
	in, err := os.CreateTemp(n.dir, "stdin")
	if err != nil {
		n.t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteString(stdin); err != nil {
		n.t.Fatal(err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		n.t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, nil, os.Stderr
	cmd.Env = slices.Concat(serviceEnv, slices.DeleteFunc(cmd.Env, func(v string) bool { return !strings.HasPrefix(v, "CNI_") }))
	if err := os.Remove(in.Name()); err != nil {
		n.t.Fatal(err)
	}
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		n.t.Fatalf("%s: %v", cmd.Path, err)
	}
	n.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // its children's, too
	return took
}

// Start to exit without work, beside a process that links client-go and does what a plugin that asks the API server by itself
// does before it asks: bar 0.2. Beside it is the floor, a Go program that only ends. Where page faults are dear, as in some
// VMs, that floor is above the bar.
func BenchmarkStartToExit(b *testing.B) {
	n := benchNode(b, build(b, "./testdata/noop"))
	clientgo, empty := build(b, "./testdata/clientgo"), build(b, "./testdata/empty")
	stub := filepath.Join(n.bin, "meta-cni")
	conf := fmt.Sprintf(`{"kubeconfig":%q}`, kubeconfig(b))
	s := samples{}
	for b.Loop() {
		s.add("stub", n.bare(stub, "VERSION", conf))
		s.add("client-go", n.bare(clientgo, "VERSION", conf))
		s.add("empty", n.bare(empty, "VERSION", conf))
	}
	s.report(b, "stub", "stub-ms")
	s.report(b, "client-go", "clientgo-ms")
	b.ReportMetric(float64(s.median("stub"))/float64(s.median("client-go")), "ratio-to-clientgo")
	b.ReportMetric(float64(s.median("empty"))/float64(s.median("client-go")), "floor-to-clientgo")
	if info, err := os.Stat(stub); err == nil {
		b.ReportMetric(float64(info.Size())/1e6, "stub-MB")
	}
}

// kubeconfig is what such a plugin's installer leaves on the node.
func kubeconfig(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	path, token := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "token")
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS() // for its certificate; nobody calls it
	b.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
		"users":[{"name":"c","user":{"tokenFile":%q}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"c"}}]}`, server.URL, base64.StdEncoding.EncodeToString(ca), token)
	if err := errors.Join(os.WriteFile(token, []byte("token"), 0o600), os.WriteFile(path, []byte(config), 0o600)); err != nil {
		b.Fatal(err)
	}
	return path
}

// A pod without extra networks: ADD beside its default network's own ADD and one bare start of the stub: bar 1.15. The
// default network is a plugin that does nothing, the hardest case: records are on this machine's disk.
func BenchmarkAddDefaultOnly(b *testing.B) {
	n := benchNode(b, build(b, "./testdata/noop"))
	addDel(b, n, func() time.Duration {
		return n.bare(filepath.Join(n.bin, "noop"), "ADD", `{"cniVersion":"1.0.0","name":"pods","type":"noop"}`) +
			n.bare(filepath.Join(n.bin, "meta-cni"), "VERSION", "{}")
	}, func() {})
}

// The same with bridge and host-local, as nodes have them.
func BenchmarkAddDefaultBridge(b *testing.B) {
	n := benchNode(b, build(b, "./testdata/noop"))
	out, err := exec.CommandContext(b.Context(), "go", "build", "-C", "../../internal/delegate/testdata/plugins", "-o", n.bin+"/",
		"github.com/containernetworking/plugins/plugins/main/bridge", "github.com/containernetworking/plugins/plugins/ipam/host-local").CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	bridge := fmt.Sprintf(`"type":"bridge","bridge":"viaductbench0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.0.0/16"}`,
		filepath.Join(n.dir, "leases"))
	b.Cleanup(func() { _ = exec.Command("ip", "link", "del", "viaductbench0").Run() })
	n.def = `{"cniVersion":"1.0.0","name":"pods","plugins":[{` + bridge + `}]}`
	conf := `{"cniVersion":"1.0.0","name":"pods",` + bridge + `}`
	addDel(b, n, func() time.Duration {
		return n.bare(filepath.Join(n.bin, "bridge"), "ADD", conf) + n.bare(filepath.Join(n.bin, "meta-cni"), "VERSION", "{}")
	}, func() { n.bare(filepath.Join(n.bin, "bridge"), "DEL", conf) })
}

// addDel takes ADD, DEL and the floor in turn. undo is what the floor's ADD needs, outside of the time taken.
func addDel(b *testing.B, n *node, floor func() time.Duration, undo func()) {
	b.Helper()
	s := samples{}
	// On a machine that does other things, processor time says more than time.
	take := func(what string, f func() time.Duration) {
		n.cpu = 0
		s.add(what, f())
		s.add(what+" CPU", n.cpu)
	}
	for i := 0; b.Loop(); i++ {
		n.id = fmt.Sprintf("floor%d", i)
		take("floor", floor)
		undo()
		n.id = fmt.Sprintf("c%d", i)
		take("ADD", func() time.Duration { return n.onFiles(n.command("ADD"), n.conf()) })
		s.add("DEL", n.onFiles(n.command("DEL"), n.conf()))
	}
	s.report(b, "ADD", "add-ms")
	s.report(b, "DEL", "del-ms")
	s.report(b, "floor", "floor-ms")
	b.ReportMetric(float64(s.median("ADD"))/float64(s.median("floor")), "ratio-to-floor")
	b.ReportMetric(float64(s.median("ADD CPU"))/float64(s.median("floor CPU")), "cpu-ratio-to-floor")
}

// Two networks by way of the agent, beside the bare starts of both plugins and of the stub: bar 1.5. With records on this machine's
// disk that is the hardest case: plugins that do nothing are done before the disk is.
func BenchmarkAddTwoNetworks(b *testing.B) {
	noop := build(b, "./testdata/noop")
	b.Run("disk", func(b *testing.B) { twoNetworks(b, benchNode(b, noop)) })
	b.Run("memory", func(b *testing.B) {
		n := benchNode(b, noop)
		n.state = inMemory(b)
		twoNetworks(b, n)
	})
}

func twoNetworks(b *testing.B, n *node) {
	b.Helper()
	n.annotations = `{"k8s.v1.cni.cncf.io/networks":"one"}`
	peak := filepath.Join(n.dir, "peak")
	a := &agent{plan: &network.Plan{Attachments: []network.Attachment{{
		Name: "shop/one", IfName: "net1",
		Config: json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"one","plugins":[{"type":"noop","peak":%q}]}`, peak)),
	}}}}
	a.serve(n)
	addDel(b, n, func() time.Duration {
		return n.bare(filepath.Join(n.bin, "noop"), "ADD", `{"cniVersion":"1.0.0","name":"pods","type":"noop"}`) +
			n.bare(filepath.Join(n.bin, "noop"), "ADD", `{"cniVersion":"1.0.0","name":"one","type":"noop"}`) +
			n.bare(filepath.Join(n.bin, "meta-cni"), "VERSION", "{}")
	}, func() {})
	data, err := os.ReadFile(peak)
	if err != nil {
		b.Fatal(err)
	}
	kb, err := strconv.Atoi(string(data))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(kb)/1000, "peak-rss-MB") // bar 10
}
