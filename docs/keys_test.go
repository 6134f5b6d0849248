package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// Each key, flag, value and annotation that the programs, the chart and the sample policy know is in a table of the page, and
// nothing else is.
func TestKeysPage(t *testing.T) {
	inCode := map[string][]string{
		"key of a pool":            literals(t, "../internal/pool/parse.go", "poolKeys"),
		"key of a network":         without(tags(t, "../internal/sriov/config.go", "input"), ofTheSpecification),
		"key of the site's file":   tags(t, "../internal/sriov/log.go", "Site"),
		"key of the node's file":   literals(t, "../internal/network/nodeconfig.go", "nodeKeys"),
		"flag of device-plugin":    slices.Collect(maps.Keys(flags(t, "../cmd/device-plugin/options.go", "-"))),
		"flag of meta-agent":       slices.Collect(maps.Keys(flags(t, "../cmd/meta-agent/main.go", "--"))),
		"Helm value":               values(t, "../charts/viaduct/values.yaml"),
		"annotation of namespaces": policyAnnotations(t),
	}
	for head, want := range inCode {
		var got []string
		for _, row := range rows(t, head) {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
				got = append(got, m[1])
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" || len(want) < 2 {
			t.Errorf("%s: -in the code +on the page:\n%s", head, d)
		}
	}
}

// A selector's keys are those of its pool's type.
func TestSelectorKeysPage(t *testing.T) {
	want := map[string][]string{}
	ast.Inspect(variable(t, "../internal/pool/parse.go", "selectorKeys"), func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok {
			want[kv.Key.(*ast.Ident).Name] = stringsIn(kv.Value)
		}
		return true
	})
	got := map[string][]string{}
	for _, row := range rows(t, "key of a selector") {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
			for i, kind := range []string{"NetDevice", "Accelerator", "AuxNetDevice"} {
				if row[1+i] == "✓" {
					got[kind] = append(got[kind], m[1])
				}
			}
		}
	}
	for _, keys := range []map[string][]string{want, got} {
		for kind := range keys {
			slices.Sort(keys[kind])
		}
	}
	if d := cmp.Diff(want, got); d != "" || len(want) != 3 {
		t.Errorf("-in the code +on the page:\n%s", d)
	}
}

// ofTheSpecification are keys that the CNI specification has for every plugin, and those that runtimes and meta plugins fill in.
var ofTheSpecification = []string{"cniVersion", "name", "dns", "deviceID", "pciBusID", "runtimeConfig", "args", "cni.dev/valid-attachments", "cni.dev/attachments"}

func without(all, these []string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return slices.Contains(these, s) })
}

// rows are the cells of the table whose head begins with these words.
func rows(t *testing.T, head string) (cells [][]string) {
	t.Helper()
	_, table, found := strings.Cut(page(t, "configuration.md"), "\n| "+head+" |")
	if !found {
		t.Fatalf("there is no table with the head %q", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range strings.Split(table, "\n")[2:] {
		var of []string
		for cell := range strings.SplitSeq(strings.Trim(row, "|"), "|") {
			of = append(of, strings.TrimSpace(cell))
		}
		cells = append(cells, of)
	}
	return cells
}

func source(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// variable is what a file gives a variable of the package.
func variable(t *testing.T, path, name string) (value ast.Node) {
	t.Helper()
	ast.Inspect(source(t, path), func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && v.Names[0].Name == name {
			value = v.Values[0]
		}
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == name { // that returns it
			value = f.Body
		}
		return value == nil
	})
	if value == nil {
		t.Fatalf("%s has no variable %s", path, name)
	}
	return value
}

func literals(t *testing.T, path, name string) []string {
	t.Helper()
	return stringsIn(variable(t, path, name))
}

func stringsIn(n ast.Node) (all []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			all = append(all, text)
		}
		return true
	})
	return all
}

// tags are the JSON names of a struct's own fields.
func tags(t *testing.T, path, name string) (all []string) {
	t.Helper()
	ast.Inspect(source(t, path), func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != name {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			tag, _ := strconv.Unquote(f.Tag.Value)
			key, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			all = append(all, key)
		}
		return false
	})
	return all
}

// The page's defaults of flags are the programs', where these are written as text.
func TestFlagDefaultsPage(t *testing.T) {
	for head, all := range map[string]map[string]string{
		"flag of device-plugin": flags(t, "../cmd/device-plugin/options.go", "-"), "flag of meta-agent": flags(t, "../cmd/meta-agent/main.go", "--"),
	} {
		for _, row := range rows(t, head) {
			name := strings.Trim(row[0], "`")
			if want := all[name]; want != "" && row[1] != "`"+want+"`" {
				t.Errorf("%s: the page says %s, the program %s", name, row[1], want)
			}
		}
	}
}

// flags are those that a program defines on its flag set fs, with their defaults if these are texts.
func flags(t *testing.T, path, dashes string) map[string]string {
	t.Helper()
	all := map[string]string{}
	ast.Inspect(source(t, path), func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || (!strings.HasSuffix(f.Sel.Name, "Var") && f.Sel.Name != "Func") {
			return true
		}
		if set, ok := f.X.(*ast.Ident); !ok || set.Name != "fs" {
			return true
		}
		name := dashes + stringsIn(call)[0]
		all[name] = ""
		if lit, ok := call.Args[min(2, len(call.Args)-1)].(*ast.BasicLit); ok && f.Sel.Name == "StringVar" {
			all[name], _ = strconv.Unquote(lit.Value)
		}
		return true
	})
	return all
}

// values are the paths of a chart's values.
func values(t *testing.T, path string) (all []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, tree map[string]any)
	walk = func(prefix string, tree map[string]any) {
		for key, value := range tree {
			if inner, ok := value.(map[string]any); ok {
				walk(prefix+key+".", inner)
				continue
			}
			all = append(all, prefix+key)
		}
	}
	walk("", tree)
	return all
}

func policyAnnotations(t *testing.T) []string {
	t.Helper()
	all := regexp.MustCompile(`viaduct-sriov\.github\.io/[a-z-]+`).FindAllString(page(t, "../conf/policies/definitions/policy.yaml"), -1)
	slices.Sort(all)
	return slices.Compact(all)
}
