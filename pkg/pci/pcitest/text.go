package pcitest

import (
	"bufio"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// The trees of real machines' NICs, as text that a person can read and change:
//
//	# a comment
//	sys/devices/pci0000:00/0000:04:00.0/          a folder; what is indented is in it
//	  vendor = 0x8086                             a file with this line
//	  driver -> ../../../bus/pci/drivers/ixgbe    a symbolic link
//	  net/eth0/                                   a folder
//	  net/eth0/carrier !                          a file that is there, but that the driver refuses to read
//
//go:embed testdata/*.tree
var trees embed.FS

// Names lists the trees that Load knows.
func Names(t testing.TB) (names []string) {
	t.Helper()
	entries, err := trees.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".tree"))
	}
	return names
}

// Text is the text of a tree.
func Text(t testing.TB, name string) []byte {
	t.Helper()
	text, err := trees.ReadFile("testdata/" + name + ".tree")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Load makes the tree with this name, such as ixgbe.
func Load(t testing.TB, name string) Tree {
	t.Helper()
	tree := Tree{T: t, Root: t.TempDir()}
	if err := Unpack(Text(t, name), tree.Root); err != nil {
		t.Fatalf("%s.tree: %v", name, err)
	}
	return tree
}

// Unpack makes the tree that text describes, in a folder that is empty. Nothing in it leads out of the folder.
func Unpack(text []byte, folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was only passed through
	in := "."
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimRight(lines.Text(), " ")
		entry := strings.TrimLeft(line, " ")
		switch {
		case entry == "" || entry[0] == '#':
			continue
		case entry == line:
			in, err = ".", unpackEntry(root, entry)
			if err == nil {
				in = strings.TrimSuffix(entry, "/")
			}
		default:
			err = unpackEntry(root, in+"/"+entry)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return lines.Err()
}

func unpackEntry(root *os.Root, entry string) error {
	if name, target, ok := strings.Cut(entry, " -> "); ok {
		if err := makeParent(root, name); err != nil {
			return err
		}
		if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
			return fmt.Errorf("%s leads out of the tree", entry)
		}
		return root.Symlink(target, name)
	}
	if name, content, ok := strings.Cut(entry, " = "); ok {
		if err := makeParent(root, name); err != nil {
			return err
		}
		return root.WriteFile(name, []byte(content+"\n"), 0o600)
	}
	// A folder in a file's place is the one thing that root, too, opens and cannot read.
	name, ok := strings.CutSuffix(entry, " !")
	if !ok {
		if name, ok = strings.CutSuffix(entry, "/"); !ok {
			return fmt.Errorf("%q is no entry: want one of the four forms that are drawn at the top of pcitest/text.go", entry)
		}
	}
	return root.MkdirAll(path.Clean(name), 0o750)
}

func makeParent(root *os.Root, name string) error {
	err := root.MkdirAll(path.Dir(name), 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
