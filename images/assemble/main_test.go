package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// built is a small program of Go's, as bytes: under the race detector an image of large ones takes minutes to compress.
var built = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "assemble")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/built", "../../cmd/meta-cni/testdata/empty")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build a program: %w: %s", err, out)
	}
	return os.ReadFile(dir + "/built")
})

// folder has programs of its own time and mode, all of them the same one, which is static.
func folder(t *testing.T, mode os.FileMode, at time.Time) string {
	t.Helper()
	dir := t.TempDir()
	self, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, self, mode), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The same programs give the same image, whenever and wherever it is made.
func TestSameDigest(t *testing.T) {
	var outputs, archives []string
	for _, dir := range []string{folder(t, 0o755, time.Unix(0, 0)), folder(t, 0o600, time.Now())} {
		path := filepath.Join(t.TempDir(), "image.tar")
		var out bytes.Buffer
		if err := run([]string{"index", "-o", path, "localhost/viaduct:test", "amd64=" + dir}, &out); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		outputs, archives = append(outputs, out.String()), append(archives, string(archive))
	}
	if outputs[0] != outputs[1] || archives[0] != archives[1] {
		t.Errorf("two images differ:\n%s\n%s", outputs[0], outputs[1])
	}
	if !regexp.MustCompile(`\nsha256:[0-9a-f]{64}\n$`).MatchString(outputs[0]) {
		t.Errorf("it does not end with the digest: %s", outputs[0])
	}
}

// An image that outgrows its limit is none: the one that was there stays, and nothing else.
func TestTooLargeIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := index(path, "name", []string{"arm64=" + folder(t, 0o755, time.Unix(0, 0))}, 100_000, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "the image for arm64 has ") || !strings.Contains(err.Error(), "more than 100000") {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != "before" {
		t.Errorf("the image that was there is another: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Both ways to make the image have the same programs in it, and the same to say of it.
func TestDockerfileSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	m, err := image("amd64", folder(t, 0o755, time.Unix(0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range m.Files {
		want = append(want, strings.TrimPrefix(f.Path, "/"))
	}
	copied := regexp.MustCompile(`(?m)^COPY --chown=0:0 (.*) /$`).FindSubmatch(text)
	got := strings.Fields(string(copied[1]))
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files: -here +Dockerfile:\n%s", d)
	}
	for key, value := range m.Labels {
		if !strings.Contains(string(text), key+`="`+value+`"`) {
			t.Errorf("the Dockerfile lacks %s=%q", key, value)
		}
	}
	if !strings.Contains(string(text), `ENTRYPOINT ["`+m.Entrypoint[0]+`"]`) {
		t.Error("the Dockerfile has another entry point")
	}
}

// No image is made of a program that would need a loader: neither way, since both need the bill of materials.
func TestDynamicProgramIsRefused(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, 0o755, time.Unix(0, 0))
	path := filepath.Join(dir, programs[1])
	if err := errors.Join(os.Remove(path), os.Symlink(sh, path)); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"sbom", filepath.Join(dir, programs[0]), path}, io.Discard); !errors.Is(err, errDynamic) {
		t.Errorf("sbom: %v", err)
	}
	if err := run([]string{"index", "-o", filepath.Join(dir, "x.tar"), "name", "amd64=" + dir}, io.Discard); !errors.Is(err, errDynamic) {
		t.Errorf("index: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"sbom"}, {"index", "-o", "x", "name"}, {"index", "-o", "x", "name", "amd64"}} {
		if err := run(args, nil); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
