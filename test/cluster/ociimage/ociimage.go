// Package ociimage writes container images as OCI archives.
//
// The pods of the tests need a shell and a ping, and the sandbox a program that waits: one static binary each. Written
// here they are the same bytes on every machine, and need no image builder, no root and no registry.
//
//	oci-layout               {"imageLayoutVersion":"1.0.0"}
//	index.json               a manifest for each image, named by an annotation
//	blobs/sha256/<digest>    of each image a manifest, a configuration, one uncompressed layer
package ociimage

import (
	"archive/tar"
	"bytes"
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

// An Image has one layer, and runs Command in an environment that has PATH alone.
type Image struct {
	Name    string // reference, with its tag: localhost/busybox:1
	Files   []File
	Command []string
}

// Write writes the images as one OCI archive. Equal images give equal bytes.
func Write(w io.Writer, images ...Image) error {
	var manifests []any
	var files []File
	for _, m := range images {
		manifest, blobs, err := m.encode()
		if err != nil {
			return fmt.Errorf("write image %s: %w", m.Name, err)
		}
		manifests = append(manifests, manifest)
		for _, b := range blobs {
			files = append(files, File{Path: "/blobs/sha256/" + digest(b)[len("sha256:"):], Mode: 0o644, Data: b})
		}
	}
	index := mustJSON(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.index.v1+json",
		"manifests":     manifests,
	})
	return writeTar(w, append(files,
		File{Path: "/oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		File{Path: "/index.json", Mode: 0o644, Data: index},
	))
}

// encode returns the index's entry for the image, and its blobs.
func (m Image) encode() (entry map[string]any, blobs [][]byte, err error) {
	layer, err := m.layer()
	if err != nil {
		return nil, nil, err
	}
	config := mustJSON(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Cmd": m.Command, "Env": []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := mustJSON(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        describe("application/vnd.oci.image.config.v1+json", config),
		"layers":        []any{describe("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	entry = describe("application/vnd.oci.image.manifest.v1+json", manifest)
	entry["platform"] = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
	// containerd takes the whole reference from its own annotation; the standard's is for everybody else.
	entry["annotations"] = map[string]string{"io.containerd.image.name": m.Name, "org.opencontainers.image.ref.name": m.Name}
	return entry, [][]byte{manifest, config, layer}, nil
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
