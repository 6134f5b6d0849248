package ociimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var example = Image{
	Name:    "localhost/example:1",
	Command: []string{"sh"},
	Files: []File{
		{Path: "/tmp", Mode: 0o1777, Dir: true},
		{Path: "/bin/sh", Link: "busybox"},
		{Path: "/bin/busybox", Mode: 0o755, Data: []byte("program")},
	},
}

func TestWriteIsDeterministic(t *testing.T) {
	var first, second bytes.Buffer
	reordered := example
	reordered.Files = []File{example.Files[2], example.Files[0], example.Files[1]}
	for image, w := range map[*Image]*bytes.Buffer{&example: &first, &reordered: &second} {
		if err := Write(w, *image); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two writes of the same image differ")
	}
}

// TestWriteIsWhole follows the archive from its index to the layer, as a runtime does.
func TestWriteIsWhole(t *testing.T) {
	var archive bytes.Buffer
	if err := Write(&archive, example); err != nil {
		t.Fatal(err)
	}
	files := contents(t, archive.Bytes())
	type reference struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	blob := func(r reference) []byte {
		t.Helper()
		data, ok := files["blobs/"+strings.Replace(r.Digest, ":", "/", 1)]
		if !ok || len(data) != r.Size || digest(data) != r.Digest {
			t.Fatalf("blob %s of %d bytes: there %v, %d bytes, digest %s", r.Digest, r.Size, ok, len(data), digest(data))
		}
		return data
	}
	var index struct{ Manifests []reference }
	decode(t, files["index.json"], &index)
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != example.Name {
		t.Errorf("the index names it %q, want %q", got, example.Name)
	}
	var manifest struct {
		Config reference
		Layers []reference
	}
	decode(t, blob(index.Manifests[0]), &manifest)
	var config struct {
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, blob(manifest.Config), &config)
	if diff := cmp.Diff([]string{manifest.Layers[0].Digest}, config.Rootfs.DiffIDs); diff != "" {
		t.Errorf("layers of the configuration (-manifest +config):\n%s", diff)
	}
	var names []string
	for _, h := range headers(t, blob(manifest.Layers[0])) {
		names = append(names, h.Name+" "+h.FileInfo().Mode().String()+" "+h.Linkname)
	}
	want := []string{"bin/ drwxr-xr-x ", "bin/busybox -rwxr-xr-x ", "bin/sh Lrwxrwxrwx busybox", "tmp/ dtrwxrwxrwx "}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestStaticRefusesADynamicProgram(t *testing.T) {
	if err := static("/bin/ls"); err == nil {
		t.Error("/bin/ls passed for a static binary")
	}
}

func contents(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func headers(t *testing.T, archive []byte) (all []*tar.Header) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("decode %q: %v", data, err)
	}
}
