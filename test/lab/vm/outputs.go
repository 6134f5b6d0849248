package vm

import (
	"path/filepath"
	"slices"
	"strings"
)

// outputFlags are the flags of a Go test binary that name something it writes on the host.
var (
	fileFlags = []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace", "testlogfile"}
	dirFlags  = []string{"gocoverdir", "fuzzcachedir"}
)

// output is what a command will write that must come back to the host, by absolute path.
type output struct{ dirs, files []string }

// outputs reads it from the flags of a Go test binary and from GOCOVERDIR. Flags look like -test.x=v, --test.x=v or
// -test.x v; a relative file is under -test.outputdir, or else under the working folder.
func outputs(argv, env []string, dir string) output {
	flags := testFlags(argv[1:])
	abs := func(base, path string) string {
		if filepath.IsAbs(path) {
			return filepath.Clean(path)
		}
		return filepath.Join(base, path)
	}
	outputDir := dir
	if d := flags["outputdir"]; d != "" {
		outputDir = abs(dir, d)
	}
	var out output
	for _, f := range fileFlags {
		if v := flags[f]; v != "" {
			out.files = append(out.files, abs(outputDir, v))
		}
	}
	for _, f := range dirFlags {
		if v := flags[f]; v != "" {
			out.dirs = append(out.dirs, abs(dir, v))
		}
	}
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "GOCOVERDIR="); ok && v != "" {
			out.dirs = append(out.dirs, abs(dir, v))
		}
	}
	slices.Sort(out.dirs)
	out.dirs = slices.Compact(out.dirs)
	return out
}

func testFlags(args []string) map[string]string {
	flags := map[string]string{}
	for i, arg := range args {
		if arg == "--" {
			break
		}
		name, ok := strings.CutPrefix("-"+strings.TrimLeft(arg, "-"), "-test.")
		if !ok || !strings.HasPrefix(arg, "-") {
			continue
		}
		name, value, ok := strings.Cut(name, "=")
		if !ok && i+1 < len(args) {
			value = args[i+1]
		}
		flags[name] = value
	}
	return flags
}
