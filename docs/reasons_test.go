package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/netlinks"
)

// The table of reasons has those that the code has, in its order, each with all that an event says of it, in the code's words.
func TestReasonsPage(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../internal/network/reasons.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var inCode, onPage []string
	for _, d := range file.Decls {
		if consts, ok := d.(*ast.GenDecl); ok && consts.Tok == token.CONST {
			for _, s := range consts.Specs {
				inCode = append(inCode, s.(*ast.ValueSpec).Names[0].Name)
			}
		}
	}
	_, table, _ := strings.Cut(page(t, "troubleshooting.md"), "\n| reason | the event says | what is wrong | what to do |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	told := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(.+?)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		onPage = append(onPage, row[1])
		told[row[1]] = strings.Split(row[2], "`, `")
	}
	if d := cmp.Diff(inCode, onPage); d != "" || len(slices.Compact(slices.Sorted(slices.Values(inCode)))) != len(inCode) {
		t.Errorf("reasons: -code +page:\n%s", d)
	}
	if d := cmp.Diff(problems(t), told); d != "" {
		t.Errorf("what is said of each: -code +page:\n%s", d)
	}
}

// problems are the messages of each reason, sorted, with … for what differs from case to case.
func problems(t *testing.T) map[string][]string {
	t.Helper()
	said := map[string]map[string]bool{}
	add := func(reason, text ast.Expr) {
		name := template(reason)
		if said[name] == nil {
			said[name] = map[string]bool{}
		}
		said[name][regexp.MustCompile("(%[a-z]|…)+").ReplaceAllString(template(text), "…")] = true
	}
	files, err := filepath.Glob("../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // internal/network's own: problem(Reason, remedy, text, …)
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "problem" && file.Name.Name == "network" {
					add(n.Args[0], n.Args[2])
				}
			case *ast.CompositeLit: // the others': network.Error{Reason: …, Problem: …}
				parts := map[string]ast.Expr{}
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						parts[template(kv.Key)] = kv.Value
					}
				}
				if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Error" && parts["Reason"] != nil {
					add(parts["Reason"], parts["Problem"])
				}
			}
			return true
		})
	}
	sorted := map[string][]string{}
	for reason, texts := range said {
		sorted[reason] = slices.Sorted(maps.Keys(texts))
	}
	// This one is another package's error as it is.
	if slices.Equal(sorted["GatewayOutOfReach"], []string{"…"}) {
		sorted["GatewayOutOfReach"] = []string{"…: " + netlinks.ErrGateway.Error() + ": …"}
	}
	return sorted
}

// template is what is certain of a string: literals, and names of constants. The rest is "…".
func template(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if e.Sel.IsExported() {
			return e.Sel.Name
		}
	case *ast.BinaryExpr:
		return operand(e.X) + operand(e.Y)
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" {
			return template(e.Args[0])
		}
	}
	return "…"
}

func operand(e ast.Expr) string {
	if _, variable := e.(*ast.Ident); variable {
		return "…"
	}
	return template(e)
}
