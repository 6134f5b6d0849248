package delegate

import (
	"os"
	"path/filepath"
	"testing"
)

// A namespace that cannot be looked at may be a living pod's.
func TestDeadIsWhatIsSurelyGone(t *testing.T) {
	n := newNode(t)
	here, err := openNetns(n.netns)
	if err != nil {
		t.Fatal(err)
	}
	loop, file := filepath.Join(t.TempDir(), "loop"), filepath.Join(t.TempDir(), "file")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(path string) Netns { return Netns{Path: path, Dev: here.Dev, Inode: here.Inode} }
	other := here
	other.Inode++
	for name, tt := range map[string]struct {
		rec  Record
		dead bool
	}{
		"there":               {Record{Boot: bootID(), Netns: here}, false},
		"another one":         {Record{Boot: bootID(), Netns: other}, true},
		"gone":                {Record{Boot: bootID(), Netns: at(file + "none")}, true},
		"its name alone":      {Record{Boot: bootID(), Netns: at(file)}, true},
		"of another boot":     {Record{Boot: "before", Netns: here}, true},
		"cannot be looked at": {Record{Boot: bootID(), Netns: at(loop)}, false},
	} {
		if got := tt.rec.dead(); got != tt.dead {
			t.Errorf("%s: dead is %v", name, got)
		}
	}
}
