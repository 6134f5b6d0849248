package docs

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/defaultroute"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// advice is what an event can say of a reason: what is wrong, and what to do. Each is sorted, with … for what differs from case to
// case.
type advice struct{ Problems, Remedies []string }

// The table of reasons has those that the code has, in its order, each with all that an event says of it, in the code's words.
func TestReasonsPage(t *testing.T) {
	var inCode, onPage []string
	for _, d := range source(t, "../internal/network/reasons.go").Decls {
		if consts, ok := d.(*ast.GenDecl); ok && consts.Tok == token.CONST {
			for _, s := range consts.Specs {
				inCode = append(inCode, s.(*ast.ValueSpec).Names[0].Name)
			}
		}
	}
	_, table, _ := strings.Cut(page(t, "troubleshooting.md"), "\n| reason | the event says | what is wrong | what to do |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	told := map[string]advice{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(.+?)` \\| .+ \\| `(.+)` \\|$").FindAllStringSubmatch(table, -1) {
		onPage = append(onPage, row[1])
		told[row[1]] = advice{strings.Split(row[2], "`, `"), strings.Split(strings.ReplaceAll(row[3], `\|`, "|"), "`, `")}
	}
	if d := cmp.Diff(inCode, onPage); d != "" || len(slices.Compact(slices.Sorted(slices.Values(inCode)))) != len(inCode) {
		t.Errorf("reasons: -code +page:\n%s", d)
	}
	if d := cmp.Diff(advised(t), told); d != "" {
		t.Errorf("what is said of each: -code +page:\n%s", d)
	}
}

// advised is what the code says of each reason.
func advised(t *testing.T) map[string]advice {
	t.Helper()
	said := map[string]advice{}
	files, err := filepath.Glob("../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file := source(t, path)
		for _, d := range file.Decls {
			locals := assigned(d)
			ast.Inspect(d, func(n ast.Node) bool {
				if reason, problem, remedy := stated(file.Name.Name, n); reason != nil {
					name := template(reason)
					said[name] = advice{append(said[name].Problems, texts(problem, locals)...), append(said[name].Remedies, texts(remedy, locals)...)}
				}
				return true
			})
		}
	}
	for reason, a := range said {
		said[reason] = advice{slices.Compact(slices.Sorted(slices.Values(a.Problems))), slices.Compact(slices.Sorted(slices.Values(a.Remedies)))}
	}
	// This one is another package's error as it is.
	if out := said["GatewayOutOfReach"]; slices.Equal(out.Problems, []string{"…"}) {
		out.Problems[0] = "…: " + defaultroute.ErrGateway.Error() + ": …"
	}
	return said
}

// stated finds the parts of an error that is made at n, in a file of the package; nil if there is none.
func stated(pkg string, n ast.Node) (reason, problem, remedy ast.Expr) {
	switch n := n.(type) {
	case *ast.CallExpr: // internal/network's own: problem(Reason, remedy, text, …)
		if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "problem" && pkg == "network" {
			return n.Args[0], n.Args[2], n.Args[1]
		}
	case *ast.CompositeLit: // the others': network.Error{Reason: …, Problem: …, Remedy: …}
		parts := map[string]ast.Expr{}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				parts[template(kv.Key)] = kv.Value
			}
		}
		if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Error" {
			return parts["Reason"], parts["Problem"], parts["Remedy"]
		}
	}
	return nil, nil, nil
}

// assigned are all values that a function gives to each of its constants and variables.
func assigned(d ast.Decl) map[string][]ast.Expr {
	values := map[string][]ast.Expr{}
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			for i, v := range n.Values {
				values[n.Names[i].Name] = append(values[n.Names[i].Name], v)
			}
		case *ast.AssignStmt:
			for i, v := range n.Rhs {
				if name, ok := n.Lhs[i].(*ast.Ident); ok && len(n.Lhs) == len(n.Rhs) {
					values[name.Name] = append(values[name.Name], v)
				}
			}
		}
		return true
	})
	return values
}

// texts are all that e can be, by what a function's names can be.
func texts(e ast.Expr, locals map[string][]ast.Expr) (all []string) {
	values := []ast.Expr{e}
	if name, ok := e.(*ast.Ident); ok && locals[name.Name] != nil {
		values = locals[name.Name]
	}
	for _, v := range values {
		all = append(all, regexp.MustCompile("(%[a-z]|…)+").ReplaceAllString(template(v), "…"))
	}
	return all
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

// The limits on the page are those in the code: one above is refused, for the reason on the page.
func TestLimitsPage(t *testing.T) {
	list := func(element string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + "]"
	}
	pod := func(networks string) error {
		_, err := network.ParseSelections(networks, "shop")
		return err
	}
	asks := func(key, element string) func(int) error {
		return func(n int) error { return pod(`[{"name":"a","` + key + `":` + list(element, n) + `}]`) }
	}
	definition := func(config string) error { return network.ParseDefinition("shop", "a", "", config).Err }
	rows := map[string]struct {
		limit int
		is    func(n int) error
	}{
		"the annotation, a configuration": {network.MaxAnnotation, func(n int) error { return pod(`[{"name":"a","cni-args":{"a":"` + strings.Repeat("x", n-34) + `"}}]`) }},
		"networks of a pod":               {network.MaxAttachments, func(n int) error { return pod(list(`{"name":"a"}`, n)) }},
		"plugins in one network":          {network.MaxPlugins, func(n int) error { return definition(`{"plugins":` + list(`{"type":"x"}`, n) + `}`) }},
		"`ips` of one network":            {network.MaxIPs, asks("ips", `"192.0.2.1"`)},
		"gateways in `default-route`":     {network.MaxGateways, asks("default-route", `"192.0.2.1"`)},
		"`portMappings` of one network":   {network.MaxPortMappings, asks("portMappings", `{"hostPort":1,"containerPort":1}`)},
		"all configurations": {network.MaxPlan, func(n int) error {
			var wants network.Wants
			defs := map[network.Reference]*network.Definition{}
			for i, left := 0, n; left > 0; i++ {
				size := min(left, network.MaxConfig/2)
				if left < 2*size {
					size = left
				}
				left -= size
				d := network.ParseDefinition("shop", strconv.Itoa(i), "", "")
				frame := len(d.WithConfig("", []byte(`{"name":"x","cniVersion":"1.0.0","type":"x","a":""}`)).Config())
				defs[network.Reference{Namespace: "shop", Name: d.Name}] = d.WithConfig("", []byte(`{"name":"x","cniVersion":"1.0.0","type":"x","a":"`+strings.Repeat("x", size-frame)+`"}`))
				wants.Networks = append(wants.Networks, network.Selection{Namespace: "shop", Name: d.Name})
			}
			_, err := wants.Plan(defs, nil)
			return err
		}},
		"nesting of JSON": {network.MaxDepth, func(n int) error {
			return definition(`{"type":"x","a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`)
		}},
		"faults told": {network.MaxFaults, func(n int) error {
			if err := pod(list(`{"name":"A"}`, n)); !strings.HasSuffix(err.Error(), "(BadName)") {
				return err
			}
			return nil
		}},
	}
	_, table, _ := strings.Cut(page(t, "standard.md"), "\n| what | at most | reason when above |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if n := len(strings.Split(table, "\n")); n != len(rows) {
		t.Errorf("%d limits on the page, want %d", n, len(rows))
	}
	for row, r := range rows {
		m := regexp.MustCompile(`(?m)^\| ` + row + "[^|]*\\| (\\d+)\\D[^|]*\\| `(\\w+)` \\|$").FindStringSubmatch(table)
		if m == nil || m[1] != strconv.Itoa(r.limit) {
			t.Errorf("%s: the page has %v, the code %d", row, m, r.limit)
			continue
		}
		if err := r.is(r.limit); err != nil {
			t.Errorf("%s: %d are refused: %.300v", row, r.limit, err)
		}
		if err := r.is(r.limit + 1); err == nil || !strings.HasSuffix(err.Error(), "("+m[2]+")") {
			t.Errorf("%s: %d: got %.300v, want a %s", row, r.limit+1, err, m[2])
		}
	}
	if network.MaxConfig != network.MaxAnnotation {
		t.Error("two limits on one line")
	}
}
