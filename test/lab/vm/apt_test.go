package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDebianRelease(t *testing.T) {
	tests := []struct{ name, text, want, err string }{
		{"12", "ID=debian\nVERSION_ID=\"12\"\n", backports, ""},
		{"13", "ID=debian\nVERSION_ID=\"13\"\n", "", ""},
		{"testing", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux forky/sid\"\n", "", ""},
		{"11", "ID=debian\nVERSION_ID=\"11\"\nPRETTY_NAME=\"Debian GNU/Linux 11\"\n", "", "this is Debian GNU/Linux 11"},
		{"another", "ID=fedora\nVERSION_ID=42\nPRETTY_NAME=\"Fedora Linux 42\"\n", "", "this is Fedora Linux 42"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := debianRelease(tt.text)
			if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %q, %v; want %q, error with %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestBackportsStanza(t *testing.T) {
	const key = "/usr/share/keyrings/debian-archive-keyring.gpg"
	stanza := func(uri, key string) string {
		return "Types: deb\nURIs: " + uri + "\nSuites: bookworm-backports\nComponents: main\nSigned-By: " + key + "\n"
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string
		err   string
	}{
		{"deb822", map[string]string{"sources.list.d/debian.sources": "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k\n\nTypes: deb\nURIs: http://security\nSuites: bookworm-security\n"}, stanza("http://mirror/debian", "/k"), ""},
		{"one line", map[string]string{"sources.list": "# deb http://no bookworm main\ndeb [arch=amd64 signed-by=/k2] http://mirror/debian bookworm main contrib\n"}, stanza("http://mirror/debian", "/k2"), ""},
		{"one line, plain", map[string]string{"sources.list": "deb http://mirror/debian bookworm main\n"}, stanza("http://mirror/debian", key), ""},
		{"there already", map[string]string{"sources.list": "deb http://m bookworm main\n", "sources.list.d/b.sources": "Types: deb\nURIs: http://m\nSuites: bookworm-backports\n"}, "", ""},
		{"there already, one line", map[string]string{"sources.list": "deb http://m bookworm main\ndeb http://m bookworm-backports main\n"}, "", ""},
		{"disabled does not count", map[string]string{"sources.list": "deb http://m bookworm main\n", "sources.list.d/b.sources": "Enabled: no\nTypes: deb\nURIs: http://m\nSuites: bookworm-backports\n"}, stanza("http://m", key), ""},
		{"not a source file", map[string]string{"sources.list.d/x.list.save": "deb http://m bookworm main\n"}, "", "no source under"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := backportsStanza(etc)
			if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error %v, want one with %q", err, tt.err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestQEMUMajor(t *testing.T) {
	for text, want := range map[string]int{
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright": 10,
		"QEMU emulator version 7.2.17":                                   7,
		"something else":                                                 0,
	} {
		if got := parseQEMUMajor(text); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}
