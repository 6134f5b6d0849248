// Package docs holds no code: its tests compare these pages with the programs.
package docs

import (
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/pool"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func page(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExamples(t *testing.T) {
	readers := map[string]func(example string) error{
		"pools": func(example string) error {
			_, warnings, err := pool.Parse([]byte(example), "intel.com")
			if err == nil && len(warnings) > 0 {
				err = warnings
			}
			return err
		},
		"network": func(example string) error {
			_, err := sriov.Parse([]byte(example), "")
			return err
		},
		"site": func(example string) error {
			path := filepath.Join(t.TempDir(), "sriov.json")
			if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
				return err
			}
			_, err := sriov.ReadSite(path)
			return err
		},
		"pod": func(example string) error {
			_, err := network.ParseSelections(example, "default")
			return err
		},
		"node": func(example string) error {
			_, err := network.ParseNodeConfig([]byte(example))
			return err
		},
	}
	seen := map[string]bool{}
	for _, e := range examples(t) {
		seen[e[1]] = true
		if err := readers[e[1]](e[2]); err != nil {
			t.Errorf("%s: %v", e[1], err)
		}
	}
	if len(seen) != len(readers) {
		t.Errorf("examples of %v, want one of each of %d", seen, len(readers))
	}
}

// examples are those of the pages, each with its kind and its text.
func examples(t *testing.T) (all [][]string) {
	t.Helper()
	for _, name := range []string{"configuration.md", "getting-started.md"} {
		all = append(all, regexp.MustCompile("(?s)<!-- (\\w+) -->\n```json\n(.*?)```").FindAllStringSubmatch(page(t, name), -1)...)
	}
	return all
}

// Every key in a table of keys is in an example.
func TestEveryKeyHasAnExample(t *testing.T) {
	var all strings.Builder
	for _, e := range examples(t) {
		all.WriteString(e[2])
	}
	keys := 0
	for table := range strings.SplitSeq(page(t, "configuration.md"), "\n\n") {
		if !strings.HasPrefix(table, "| key") {
			continue
		}
		for _, row := range strings.Split(table, "\n")[2:] {
			first := strings.Split(row, "|")[1]
			for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(first, -1) {
				keys++
				if !strings.Contains(all.String(), `"`+m[1]+`":`) {
					t.Errorf("no example has the key %s", m[1])
				}
			}
		}
	}
	if keys < 45 {
		t.Errorf("only %d keys found", keys)
	}
}

// declaredTests are the project's, each as "folder TestName".
func declaredTests(t *testing.T) map[string]bool {
	t.Helper()
	declared := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == ".git" || e.Name() == "bin" || e.Name() == "testdata") {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, d := range source(t, path).Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				declared[strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")+" "+f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return declared
}

// A page names tests that are there, and as many as it should.
func TestPagesNameTheirTests(t *testing.T) {
	declared := declaredTests(t)
	for name, least := range map[string]int{"standard.md": 40, "security.md": 40, "compatibility.md": 12} {
		named := regexp.MustCompile("`([a-z0-9/-]+)` `(Test\\w+)`").FindAllStringSubmatch(page(t, name), -1)
		for _, m := range named {
			if test := m[1] + " " + m[2]; !declared[test] {
				t.Errorf("%s names %s, which is not there", name, test)
			}
		}
		if len(named) < least {
			t.Errorf("%s: only %d tests are named", name, len(named))
		}
	}
}

// The page on the standard names every test of the standard, and on each line of its tables but the one of limits, which has
// a test of its own, a test that is there.
func TestPageOnTheStandardIsComplete(t *testing.T) {
	declared, text := declaredTests(t), page(t, "standard.md")
	named := regexp.MustCompile("`([a-z0-9/-]+)` `(Test\\w+)`")
	claims := 0
	for table := range strings.SplitSeq(text, "\n\n") {
		head, rows, isTable := strings.Cut(table, "|---|")
		if !isTable || strings.HasPrefix(head, "| what | at most |") {
			continue
		}
		if !strings.HasSuffix(head, "| test |\n") {
			t.Errorf("a table without tests: %s", head)
		}
		for _, row := range strings.Split(strings.TrimSpace(rows), "\n")[1:] {
			claims++
			cells := strings.Split(strings.TrimSuffix(row, " |"), " | ")
			last := cells[len(cells)-1]
			tests := named.FindAllStringSubmatch(last, -1)
			if rest := named.ReplaceAllString(last, ""); len(tests) == 0 || strings.Contains(rest, "Test") || strings.Contains(strings.Join(cells[:len(cells)-1], ""), "`Test") {
				t.Errorf("a line without a test, or with one outside its last column or without its folder: %s", row)
			}
			for _, m := range tests {
				if !declared[m[1]+" "+m[2]] {
					t.Errorf("%s is not there: %s", m[0], row)
				}
			}
		}
	}
	if claims < 60 {
		t.Errorf("only %d lines found", claims)
	}
	for test := range declared {
		name := test[strings.LastIndexByte(test, ' ')+1:]
		if ofStandard := regexp.MustCompile("^Test(Standard|Multus)[A-Z]").MatchString(name); ofStandard && !strings.Contains(text, "`"+name+"`") {
			t.Errorf("the page lacks %s", test)
		}
	}
}

// The table of what sriov refuses has all that its author can mend, in the code's words, and nothing else.
func TestSriovRefusalsPage(t *testing.T) {
	inCode := map[string]bool{}
	for _, sentinel := range []error{vf.ErrUnsupported, vf.ErrInvalid, vf.ErrPermission, vf.ErrAddress, vf.ErrBusy, vf.ErrUnsettled} {
		inCode[sentinel.Error()] = true
	}
	files, err := filepath.Glob("../internal/sriov/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		// GC's one is the runtime's to mend.
		if name := filepath.Base(path); !strings.HasSuffix(name, "_test.go") && name != "check.go" {
			for _, text := range refusals(t, path, name == "config.go") {
				inCode[text] = true
			}
		}
	}
	delete(inCode, "network definition: …") // not JSON at all: meta-cni passes none such on
	onPage := map[string]bool{}
	_, table, _ := strings.Cut(page(t, "troubleshooting.md"), "\n## What `sriov` refuses\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, row := range regexp.MustCompile("(?m)^\\| (`.+`) \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		for text := range strings.SplitSeq(strings.Trim(row[1], "`"), "`, `") {
			onPage[text] = true
		}
	}
	if d := cmp.Diff(inCode, onPage); d != "" || len(inCode) < 20 {
		t.Errorf("%d refusals: -code +page:\n%s", len(inCode), d)
	}
}

// refusals are the messages in a file of sriov's that go with the code of what an author can mend, and with all set all of its
// errors. Each verb is "…"; messages that only pass on another's are left out.
func refusals(t *testing.T, path string, all bool) (texts []string) {
	t.Helper()
	file := source(t, path)
	selected := func(e ast.Expr, names ...string) bool {
		s, ok := e.(*ast.SelectorExpr)
		return ok && slices.Contains(names, s.Sel.Name)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if coded := len(call.Args) > 1 && selected(call.Args[0], "ErrInvalidNetworkConfig"); !coded && (!all || !selected(call.Fun, "Errorf", "New")) {
			return true
		}
		text := ""
		ast.Inspect(call, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && text == "" {
				text, _ = strconv.Unquote(lit.Value)
			}
			return text == ""
		})
		text = strings.TrimSuffix(strings.TrimPrefix(text, "network %q: "), ": %w")
		if text = regexp.MustCompile("(%[a-z]|…)+").ReplaceAllString(text, "…"); regexp.MustCompile("[a-z]").MatchString(text) {
			texts = append(texts, text)
		}
		return true
	})
	return texts
}

// Each line of a table of claims says which test shows it, or that nothing holds it.
func TestEachClaimHasItsTest(t *testing.T) {
	claims := 0
	for table := range strings.SplitSeq(page(t, "security.md"), "\n\n") {
		_, rows, ok := strings.Cut(table, "| | test |\n|---|---|\n")
		if !ok {
			continue
		}
		for row := range strings.SplitSeq(strings.TrimSpace(rows), "\n") {
			claims++
			// What nothing holds has no test, and says so by an empty cell.
			open := slices.ContainsFunc([]string{"at the API server: see below", "so decides what root runs", "is in the host's network"}, func(begin string) bool {
				return strings.HasPrefix(row, "| "+begin)
			})
			if strings.Contains(row, "`Test") == open {
				t.Errorf("a claim without a test, or one that nothing holds with one: %s", row)
			}
		}
	}
	if claims < 25 {
		t.Errorf("only %d claims found", claims)
	}
}
