package cniconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const flannel = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"isDefaultGateway":true}},{"type":"portmap","capabilities":{"portMappings":true,"other":false}}]}`

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	ours, err := Render(Default{List: json.RawMessage(flannel)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	single := func(typ string) string { return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","type":%q}`, typ) }
	tests := map[string]struct {
		files   map[string]string
		want    string
		skipped int
	}{
		"the first by name":            {map[string]string{"20-b.conf": single("b"), "10-a.conflist": flannel}, "10-a.conflist", 0},
		"ours is passed over":          {map[string]string{FileName: string(ours), "10-a.conflist": flannel}, "10-a.conflist", 0},
		"ours under another name":      {map[string]string{"05-moved.conflist": string(ours), "10-a.conflist": flannel}, "10-a.conflist", 1},
		"the peer would call us again": {map[string]string{"00-multus.conf": single("multus-shim"), "10-a.conflist": flannel}, "10-a.conflist", 1},
		"a broken one":                 {map[string]string{"05-x.conf": `{"type":`, "10-a.conflist": flannel}, "10-a.conflist", 1},
		"without a name":               {map[string]string{"05-x.conf": `{"type":"a"}`, "10-a.conflist": flannel}, "10-a.conflist", 1},
		"what runtimes do not read":    {map[string]string{"05-x.conf.bak": single("a"), "05-y.cilium_bak": single("a"), "10-a.json": single("b")}, "10-a.json", 0},
		"none":                         {map[string]string{FileName: string(ours)}, "", 0},
		"an empty folder":              {nil, "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, content := range tt.files {
				put(t, dir, f, content)
			}
			d, skipped, err := Find(dir)
			if (err != nil) != (tt.want == "") || (err != nil && !errors.Is(err, ErrNoDefault)) {
				t.Fatal(err)
			}
			if d.File != tt.want || len(skipped) != tt.skipped {
				t.Errorf("got %q, passed over %v; want %q, %d passed over", d.File, skipped, tt.want, tt.skipped)
			}
		})
	}
}

func TestFindInMissingFolder(t *testing.T) {
	if _, _, err := Find(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNoDefault) {
		t.Errorf("got %v, want ErrNoDefault", err)
	}
}

func TestRender(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "10-flannel.conflist", flannel)
	d, _, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := Render(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cniVersion":"1.1.0","name":"viaduct","plugins":[{"type":"meta-cni",
		"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"delegates":[` + flannel + `]}]}`
	var got, wanted any
	if err := errors.Join(json.Unmarshal(data, &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Error(diff)
	}
}

// Runtimes watch for three extensions: none of what happens on the way to our file has one of them.
func TestWriteIsOneRename(t *testing.T) {
	dir := t.TempDir()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	if err := write(dir, []byte("x")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "end", "")
	var seen []string
	for e := range w.Events {
		if filepath.Base(e.Name) == "end" {
			break
		}
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name)) {
			seen = append(seen, e.Op.String())
		}
	}
	if diff := cmp.Diff([]string{"CREATE"}, seen); diff != "" {
		t.Errorf("a runtime sees: %s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, FileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestRenderWithNetworksForEveryPod(t *testing.T) {
	options := Options{
		DefaultNetworks: []string{"side"}, SystemNamespaces: []string{"kube-system"}, BinDir: "/opt/more", MultusDir: "/old/state",
		NamespaceIsolation: true, GlobalNamespaces: []string{"default"}, MultusNamespace: "infra",
	}
	data, err := Render(Default{List: json.RawMessage(flannel)}, options)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Plugins []Options }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Options{options}, got.Plugins); diff != "" {
		t.Error(diff)
	}
}

// The agent is root without a capability: where the folder is another user's, or nobody may write it, the error says what to do.
func TestSaysWhatToDoAboutAForeignFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // to the test's end: a thread without capabilities is good for nothing else
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	if err := write(dir, []byte("x")); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "deploy with conf/overlays/dac-override") {
		t.Errorf("got %v", err)
	}
}
