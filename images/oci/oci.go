// Package oci writes container images as OCI archives.
//
// The product's images for all architectures, and the tests' own, are a few static binaries each. Written here they are the
// same bytes on every machine, and need no image builder, no root and no registry.
//
//	oci-layout               {"imageLayoutVersion":"1.0.0"}
//	index.json               an entry for each image, named by an annotation: its manifest, or the index of its manifests
//	blobs/sha256/<digest>    an index of manifests; of each of them a manifest, a configuration, one layer
package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"time"
)

// A File is one entry of an image's file system. Folders above it are made, mode 0755, owned by root.
type File struct {
	Path string // absolute
	Mode int64  // permissions; of a folder if Dir
	Data []byte // contents
	Link string // target, if the file is a symbolic link
	Dir  bool
}

// An Image has one layer, and runs Entrypoint and Command in an environment that has PATH alone.
type Image struct {
	Name         string // reference, with its tag: localhost/busybox:1
	Architecture string // as Go names it; default this program's
	Files        []File
	Entrypoint   []string
	Command      []string
	Labels       map[string]string
	Compress     bool // the layer, with gzip
}

// A blob is stored under its digest.
type blob []byte

// Write writes the images as one OCI archive. Equal images give equal bytes.
func Write(w io.Writer, images ...Image) error {
	var entries []any
	var blobs []blob
	for _, m := range images {
		entry, of, err := m.encode()
		if err != nil {
			return fmt.Errorf("write image %s: %w", m.Name, err)
		}
		entry["annotations"] = names(m.Name)
		entries, blobs = append(entries, entry), append(blobs, of...)
	}
	return writeArchive(w, entries, blobs)
}

// WriteIndex writes one image for several architectures as an OCI archive: each of images is it for one of them. It returns
// the index's digest, by which a registry knows the image, and the compressed size of each layer, in bytes.
func WriteIndex(w io.Writer, name string, images ...Image) (digest string, sizes []int, err error) {
	var manifests []any
	var blobs []blob
	for _, m := range images {
		entry, of, err := m.encode()
		if err != nil {
			return "", nil, fmt.Errorf("write image %s for %s: %w", name, m.Architecture, err)
		}
		manifests, blobs, sizes = append(manifests, entry), append(blobs, of...), append(sizes, len(of[2]))
	}
	index := mustJSON(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": manifests})
	entry := describe(indexType, index)
	entry["annotations"] = names(name)
	return entry["digest"].(string), sizes, writeArchive(w, []any{entry}, append(blobs, index))
}

const indexType = "application/vnd.oci.image.index.v1+json"

// names are the annotations of an archive's entry. containerd takes the whole reference from its own; the standard's is for
// everybody else.
func names(name string) map[string]string {
	return map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
}

func writeArchive(w io.Writer, entries []any, blobs []blob) error {
	files := []File{
		{Path: "/oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: "/index.json", Mode: 0o644, Data: mustJSON(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": entries})},
	}
	for _, b := range blobs {
		files = append(files, File{Path: "/blobs/sha256/" + digest(b)[len("sha256:"):], Mode: 0o644, Data: b})
	}
	return writeTar(w, files)
}

// encode returns an index's entry for the image, and its blobs: manifest, configuration, layer.
func (m Image) encode() (entry map[string]any, blobs []blob, err error) {
	layer, err := m.layer()
	if err != nil {
		return nil, nil, err
	}
	stored, layerType := layer, "application/vnd.oci.image.layer.v1.tar"
	if m.Compress {
		if stored, err = compress(layer); err != nil {
			return nil, nil, err
		}
		layerType += "+gzip"
	}
	architecture := cmp.Or(m.Architecture, runtime.GOARCH)
	run := map[string]any{"Env": []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}}
	if m.Entrypoint != nil {
		run["Entrypoint"] = m.Entrypoint
	}
	if m.Command != nil {
		run["Cmd"] = m.Command
	}
	if m.Labels != nil {
		run["Labels"] = m.Labels
	}
	config := mustJSON(map[string]any{
		"architecture": architecture,
		"os":           "linux",
		"config":       run,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := mustJSON(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        describe("application/vnd.oci.image.config.v1+json", config),
		"layers":        []any{describe(layerType, stored)},
	})
	entry = describe("application/vnd.oci.image.manifest.v1+json", manifest)
	entry["platform"] = map[string]string{"architecture": architecture, "os": "linux"}
	return entry, []blob{manifest, config, stored}, nil
}

func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (m Image) layer() ([]byte, error) {
	var b bytes.Buffer
	if err := writeTar(&b, m.Files); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeTar writes files in the order of their paths, each folder before what is in it.
func writeTar(w io.Writer, files []File) error {
	all := make(map[string]File)
	for _, f := range files {
		f.Path = path.Clean(f.Path)
		for dir := path.Dir(f.Path); dir != "/" && dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Mode: 0o755, Dir: true}
			}
		}
		all[f.Path] = f
	}
	var paths []string
	for p := range all {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	t := tar.NewWriter(w)
	for _, p := range paths {
		if err := writeEntry(t, all[p]); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return t.Close()
}

func writeEntry(t *tar.Writer, f File) error {
	h := &tar.Header{Name: f.Path[1:], Mode: f.Mode, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Size: int64(len(f.Data))}
	switch {
	case f.Dir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(f.Data)
	return err
}

func describe(mediaType string, blob []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digest(blob), "size": len(blob)}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// mustJSON encodes what is made of maps, strings and numbers, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
