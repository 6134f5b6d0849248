package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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

// TestIndex finds each architecture's image in the archive, and two archives of one image equal.
func TestIndex(t *testing.T) {
	amd, arm := example, example
	amd.Architecture, amd.Compress = "amd64", true
	arm.Architecture, arm.Compress, arm.Entrypoint = "arm64", true, []string{"/bin/sh"}
	var first, second bytes.Buffer
	digests := map[string]bool{}
	for _, w := range []*bytes.Buffer{&first, &second} {
		id, sizes, err := WriteIndex(w, "localhost/example:1", amd, arm)
		if err != nil || len(sizes) != 2 {
			t.Fatal(sizes, err)
		}
		digests[id] = true
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) || len(digests) != 1 {
		t.Error("two writes of the same image differ")
	}
	files := contents(t, first.Bytes())
	type entry struct {
		Digest   string
		Platform struct{ Architecture, OS string }
	}
	follow := func(digest string, into any) {
		t.Helper()
		decode(t, files["blobs/"+strings.Replace(digest, ":", "/", 1)], into)
	}
	var outer, inner struct{ Manifests []entry }
	decode(t, files["index.json"], &outer)
	if len(outer.Manifests) != 1 || !digests[outer.Manifests[0].Digest] {
		t.Fatalf("the archive names %+v, want the digest that was returned, %v", outer.Manifests, digests)
	}
	follow(outer.Manifests[0].Digest, &inner)
	var got []string
	for _, e := range inner.Manifests {
		var manifest struct {
			Config entry
			Layers []struct{ MediaType, Digest string }
		}
		follow(e.Digest, &manifest)
		var config struct {
			Architecture string
			Rootfs       struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		follow(manifest.Config.Digest, &config)
		z, err := gzip.NewReader(bytes.NewReader(files["blobs/"+strings.Replace(manifest.Layers[0].Digest, ":", "/", 1)]))
		if err != nil {
			t.Fatal(err)
		}
		layer, err := io.ReadAll(z)
		if err != nil || digest(layer) != config.Rootfs.DiffIDs[0] {
			t.Errorf("the layer is not the one of the configuration: %v", err)
		}
		got = append(got, e.Platform.OS+"/"+e.Platform.Architecture+" "+config.Architecture+" "+manifest.Layers[0].MediaType)
	}
	const layer = "application/vnd.oci.image.layer.v1.tar+gzip"
	if diff := cmp.Diff([]string{"linux/amd64 amd64 " + layer, "linux/arm64 arm64 " + layer}, got); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
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
