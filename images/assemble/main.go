// Assemble makes the container image from programs that are built already.
//
//	assemble sbom PROGRAM…                       writes the programs' bill of materials to standard output
//	assemble index -o FILE NAME ARCH=FOLDER…     one image for several architectures as an OCI archive, each from a folder
//	                                             with the programs; prints its digest and the size of each part
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/viaduct-sriov/viaduct/images/oci"
	"github.com/viaduct-sriov/viaduct/images/sbom"
)

// programs are what is in the image, all of them static.
var programs = []string{"device-plugin", "meta-agent", "sriov-cni", "meta-cni", "vfctl"}

// maxCompressed is what the image may be for one architecture, in bytes: every node pulls it.
const maxCompressed = 60_000_000

var errUsage = errors.New("usage: assemble sbom PROGRAM… | assemble index -o FILE NAME ARCH=FOLDER…")

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "assemble:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	switch {
	case len(args) > 1 && args[0] == "sbom":
		data, err := bill(args[1:])
		if err == nil {
			_, err = stdout.Write(data)
		}
		return err
	case len(args) > 4 && args[0] == "index" && args[1] == "-o":
		return index(args[2], args[3], args[4:], maxCompressed, stdout)
	default:
		return errUsage
	}
}

// index refuses an image that has more bytes than most for one of its architectures, and leaves nothing of it.
func index(path, name string, parts []string, most int, stdout io.Writer) (err error) {
	var images []oci.Image
	for _, part := range parts {
		arch, folder, ok := strings.Cut(part, "=")
		if !ok {
			return errUsage
		}
		m, imageErr := image(arch, folder)
		if imageErr != nil {
			return imageErr
		}
		images = append(images, m)
	}
	out, err := os.Create(path + ".new")
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	defer os.Remove(path + ".new") // unless it has another name by then
	digest, sizes, err := oci.WriteIndex(out, name, images...)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	for i, size := range sizes {
		fmt.Fprintf(stdout, "%s for %s: %d.%d MB compressed\n", name, images[i].Architecture, size/1_000_000, size/100_000%10)
		if size > most {
			return fmt.Errorf("the image for %s has %d bytes compressed, more than %d", images[i].Architecture, size, most)
		}
	}
	fmt.Fprintln(stdout, digest)
	return os.Rename(path+".new", path)
}

// image is one architecture's, from the folder with its programs. images/Dockerfile says the same to image builders.
func image(arch, folder string) (oci.Image, error) {
	m := oci.Image{
		Architecture: arch, Entrypoint: []string{"/vfctl"}, Compress: true,
		Labels: map[string]string{
			"org.opencontainers.image.title":       "viaduct",
			"org.opencontainers.image.description": "SR-IOV networking for Kubernetes pods",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
	var paths []string
	for _, name := range programs {
		path := filepath.Join(folder, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return m, fmt.Errorf("read a program: %w (make image-all builds them)", err)
		}
		m.Files = append(m.Files, oci.File{Path: "/" + name, Mode: 0o755, Data: data})
		paths = append(paths, path)
	}
	materials, err := bill(paths)
	if err != nil {
		return m, err
	}
	m.Files = append(m.Files, oci.File{Path: "/sbom.cdx.json", Mode: 0o644, Data: materials})
	return m, nil
}

// bill is the bill of materials of programs that can go into an image: each build of one begins with it.
func bill(paths []string) ([]byte, error) {
	for _, path := range paths {
		if err := checkStatic(path); err != nil {
			return nil, err
		}
	}
	return sbom.Of(paths...)
}

var errDynamic = errors.New("it is linked dynamically, and there is nothing else in the image: build it with CGO_ENABLED=0")

// checkStatic refuses a program that asks for a loader or for libraries. The CNI plugins run on the node, whose C library
// may be any.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read how %s is linked: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("%s: %w", path, errDynamic)
		}
	}
	return nil
}
