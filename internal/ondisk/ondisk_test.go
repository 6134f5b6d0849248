package ondisk

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func conf(name, typ string) string {
	return `{"cniVersion":"1.0.0","name":"` + name + `","type":"` + typ + `"}`
}

func conflist(name, typ string) string {
	return `{"cniVersion":"1.0.0","name":"` + name + `","plugins":[{"type":"` + typ + `"}]}`
}

// The .conflist by that name, else the .conf, else nothing.
func TestStandardConfigOnDisk(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  string // the plugin; empty: none
	}{
		"a list before a single one":  {map[string]string{"00.conf": conf("a", "single"), "99.conflist": conflist("a", "list")}, "list"},
		"a single one":                {map[string]string{"00.conf": conf("a", "single"), "99.conflist": conflist("b", "list")}, "single"},
		"the first by file name":      {map[string]string{"20.conf": conf("a", "second"), "10.json": conf("a", "first")}, "first"},
		"the file's name is no name":  {map[string]string{"a.conf": conf("b", "x")}, ""},
		"a broken one before":         {map[string]string{"00.conf": "{", "10.conf": conf("a", "x")}, "x"},
		"another extension":           {map[string]string{"a.yaml": conf("a", "x"), "a.conf.bak": conf("a", "x")}, ""},
		"an empty folder":             {nil, ""},
		"too long to be one":          {map[string]string{"a.conf": conf("a", "x") + strings.Repeat(" ", network.MaxConfig)}, "refused"},
		"its name is not the network": {map[string]string{"a.conf": `{"name":7,"type":"x"}`}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := Folder(folder(t, tt.files))
			d, err := f.Complete(network.ParseDefinition("shop", "a", "", ""))
			if err != nil {
				t.Fatal(err)
			}
			named, err := f.Named("a")
			if err != nil || (named == nil) != (tt.want == "") {
				t.Fatalf("by name alone: %v, %v", named, err)
			}
			switch {
			case tt.want == "refused":
				if d.Err == nil || named.Err == nil {
					t.Errorf("got %v", d.Plugins())
				}
			case tt.want == "":
				if !d.OnDisk() {
					t.Errorf("got %v", d.Plugins())
				}
			case d.Err != nil || d.Plugins()[0] != tt.want || named.Plugins()[0] != tt.want || d.Network() != "shop/a" || named.Network() != "a":
				t.Errorf("got %v, %v as %s, and %v as %s", d.Err, d.Plugins(), d.Network(), named.Plugins(), named.Network())
			}
		})
	}
}

func TestMissingFolder(t *testing.T) {
	f := Folder(filepath.Join(t.TempDir(), "none"))
	if d, err := f.Named("a"); d != nil || err != nil {
		t.Errorf("got %v, %v", d, err)
	}
}

// A path names a file, or a folder whose first file is meant.
func TestMultusNetworkByPath(t *testing.T) {
	dir := folder(t, map[string]string{"20.conf": conf("b", "second"), "10.conflist": conflist("a", "first"), "00.txt": "", "05-nameless": `{"type":"x"}`})
	for path, want := range map[string]string{dir: "a", filepath.Join(dir, "20.conf"): "b", filepath.Join(dir, "none"): "", t.TempDir(): ""} {
		d, err := At(path)
		if err != nil || (d == nil) != (want == "") || (d != nil && (d.Err != nil || d.Network() != want)) {
			t.Errorf("%s: got %+v, %v; want %q", path, d, err, want)
		}
	}
	if d, err := At(filepath.Join(dir, "05-nameless")); err != nil || d.Err == nil || !strings.Contains(d.Err.Error(), "name") {
		t.Errorf("without a name: %+v, %v", d, err)
	}
	pipe := filepath.Join(dir, "pipe.conf")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := At(pipe); err == nil { // and it does not wait for a writer
		t.Error("a pipe is taken for a file")
	}
}
