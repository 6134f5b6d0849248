package thirdparty

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// goMod is what `go mod edit -json` says of a go.mod, as far as it matters here.
type goMod struct {
	Go      string
	Require []struct{ Path, Version string }
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

// writeModule writes into dir the go.mod of a module that only requires s. `go install module@version` would do if
// Kubernetes did not replace its staging modules by folders of its own tree, which are not part of the module.
func writeModule(ctx context.Context, dir string, s Source) error {
	mod, err := download(ctx, dir, s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "go.mod"), []byte(render(s, mod)), 0o644)
}

// render is the go.mod of a module that builds s, whose own go.mod is mod.
//
// A module that is required as v0.0.0 exists only as a folder beside s, by replacement: Kubernetes' staging modules. They are
// published one by one as v0.Y.Z where Kubernetes is v1.Y.Z, and are replaced by that.
func render(s Source, mod goMod) string {
	placeholder := make(map[string]bool)
	for _, r := range mod.Require {
		placeholder[r.Path] = r.Version == "v0.0.0"
	}
	published := "v0." + strings.TrimPrefix(s.Version, "v1.")
	var b strings.Builder
	fmt.Fprintf(&b, "module build\n\ngo %s\n\nrequire %s %s\n", mod.Go, s.Module, s.Version)
	for _, r := range mod.Replace {
		if strings.HasPrefix(r.New.Path, ".") && placeholder[r.Old.Path] {
			fmt.Fprintf(&b, "replace %s => %s %s\n", r.Old.Path, r.Old.Path, published)
		}
	}
	return b.String()
}

// download fetches s and returns its go.mod.
func download(ctx context.Context, dir string, s Source) (goMod, error) {
	var got struct{ GoMod, Error string }
	out, err := goTool(ctx, dir, "mod", "download", "-json", s.Module+"@"+s.Version)
	if jsonErr := json.Unmarshal(out, &got); jsonErr != nil || got.Error != "" {
		return goMod{}, fmt.Errorf("download %s %s: %w", s.Module, s.Version, errors.Join(err, errors.New(got.Error)))
	}
	out, err = goTool(ctx, dir, "mod", "edit", "-json", got.GoMod)
	if err != nil {
		return goMod{}, fmt.Errorf("read the go.mod of %s: %w", s.Module, err)
	}
	var mod goMod
	if err := json.Unmarshal(out, &mod); err != nil {
		return goMod{}, fmt.Errorf("read the go.mod of %s: %w", s.Module, err)
	}
	return mod, nil
}

// goTool runs go in dir, apart from any workspace and flags of its caller's, and returns its output.
func goTool(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := goCommand(ctx, dir, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"GOFLAGS", "GOWORK", "GOOS", "GOARCH", "GOCOVERDIR", "CGO_ENABLED"}, name)
	})
	cmd.Env = append(env, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux")
	return cmd
}
