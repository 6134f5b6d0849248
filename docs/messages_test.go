package docs

import (
	"go/ast"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ofOthers are messages in the tables that the kubelet and the container runtime write.
var ofOthers = []string{"no healthy devices present", "cannot allocate unhealthy devices", `failed to find plugin …`}

// What the tables of troubleshooting say that an event, a log or a pod's message says, one of our programs does say. The tables of
// reasons and of what sriov refuses are compared with the code both ways, by tests of their own.
func TestMessagesPage(t *testing.T) {
	code := textsInCode(t)
	checked, others := 0, map[string]bool{}
	for table := range strings.SplitSeq(page(t, "troubleshooting.md"), "\n\n") {
		head, rows, isTable := strings.Cut(table, "|---|")
		if !isTable || !regexp.MustCompile(`^\| the .* says? \|`).MatchString(head) {
			continue
		}
		for _, row := range strings.Split(rows, "\n")[1:] {
			said, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(said, -1) {
				message := m[1]
				checked++
				if i := slices.IndexFunc(ofOthers, func(theirs string) bool { return fits(theirs, message) }); i >= 0 {
					others[ofOthers[i]] = true
					continue
				}
				if !isReason(message) && !slices.ContainsFunc(code, func(text string) bool { return says(text, message) }) {
					t.Errorf("no program of ours says %q", message)
				}
			}
		}
	}
	if checked < 40 || len(others) != len(ofOthers) {
		t.Errorf("%d messages looked at, of others %v", checked, others)
	}
}

// isReason is true for a reason in brackets, as at the end of a refusal.
func isReason(message string) bool { return regexp.MustCompile(`^\([A-Z]\w+\)$`).MatchString(message) }

// says is true if a text of the code can be what the message quotes: all of it or a part. Names and numbers are "…" in both; a
// message may have them written out.
func says(text, message string) bool {
	return fits("…"+message+"…", text) || fits(text, message)
}

// fits is true if text is the pattern, whose "…" stand for anything. A pattern that is nearly all "…" says too little to fit.
func fits(pattern, text string) bool {
	parts := strings.Split(pattern, "…")
	last := len(parts) - 1
	if len(strings.Join(parts, "")) < 8 || !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	if last == 0 {
		return text == ""
	}
	for _, part := range parts[1:last] {
		_, after, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = after
	}
	return strings.HasSuffix(text, parts[last])
}

// textsInCode are the strings in our programs, with "…" for what is formatted into them.
func textsInCode(t *testing.T) (all []string) {
	t.Helper()
	verb := regexp.MustCompile(`%[-+#]?[0-9]*[a-z]`)
	for _, root := range []string{"../cmd", "../internal", "../pkg"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
				return err
			}
			ast.Inspect(source(t, path), func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if text := joined(e); text != "" {
						all = append(all, strings.Trim(verb.ReplaceAllString(text, "…"), ": \n")) // one is often a part of a line
						return false
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// joined is a string literal, or several that are added up, with "…" for what stands between them.
func joined(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value)
			return text
		}
	case *ast.BinaryExpr:
		x, y := joined(e.X), joined(e.Y)
		switch {
		case e.Op != token.ADD || x+y == "":
		case x == "":
			return "…" + y
		case y == "":
			return x + "…"
		default:
			return x + y
		}
	}
	return ""
}
