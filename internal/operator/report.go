package operator

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/sriov"
)

const readme = `A report of vfctl on the VFs of one node, for whoever is to help.

list.txt, list.json   every PF and VF with pool, owner, settings, and what is not as it should be
devices.json          what sysfs says of the PCI functions
versions.txt          of vfctl, the CNI plugins, the kernel, the drivers
kernel.txt            the kernel's messages that name one of these devices, their interfaces or drivers
logs/                 the ends of the logs of sriov, the device plugin and the meta-agent on this node
node/                 a part of the node's files: sysfs of these devices, the records of the VFs (run/viaduct/vf), the journals of
                      the meta CNI plugin (var/lib/viaduct/pods), the configuration; vfctl --root node list shows them
missing.txt           what could not be had, and why

What is secret is left out: of configurations and records there are the values of keys that are known to be harmless; of
others it says only that there was one. Of logs, what looks like a password, token or key is taken out; look through them
all the same before you send this on.
`

const (
	maxLog   = 256 << 10 // of one log file
	maxFiles = 2000      // of one kind
)

// A reporter writes one report. What it cannot have it notes.
type reporter struct {
	n       *Node
	b       Bundle
	missing []string
	err     error // of writing: nothing more is to be written then
}

// Report writes all that is known of the node's VFs into a bundle. version is vfctl's own. The error is that of writing;
// what could not be had is said in the bundle.
func (n *Node) Report(ctx context.Context, b Bundle, version string, logs bool) error {
	r := &reporter{n: n, b: b}
	r.file("README.txt", []byte(readme))
	drivers, words := r.devices(ctx)
	r.file("versions.txt", []byte(r.versions(version, drivers)))
	r.records(n.StateDir)
	r.records(n.JournalDir)
	r.configuration()
	if logs {
		r.logs()
		r.kernel(words)
	}
	if len(r.missing) > 0 {
		r.file("missing.txt", []byte(strings.Join(r.missing, "\n")+"\n"))
	}
	return r.err
}

func (r *reporter) file(name string, data []byte) {
	if r.err == nil {
		if err := r.b.File(name, data); err != nil {
			r.err = fmt.Errorf("write %s into the report: %w", name, err)
		}
	}
}

func (r *reporter) link(name, target string) {
	if r.err == nil {
		if err := r.b.Link(name, target); err != nil {
			r.err = fmt.Errorf("write %s into the report: %w", name, err)
		}
	}
}

func (r *reporter) miss(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.missing = append(r.missing, what+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// devices writes what vfctl list shows, and sysfs. It gives the drivers, and the words by which the kernel names devices.
func (r *reporter) devices(ctx context.Context) (drivers, words []string) {
	l, err := r.n.look(ctx)
	if err != nil {
		r.miss("the devices", err)
		return nil, nil
	}
	defer l.inspect.Close()
	status := l.status()
	var text bytes.Buffer
	r.miss("list.txt", status.Print(&text))
	r.file("list.txt", redactText(text.Bytes()))
	if data, err := redactTexts(status); err == nil {
		r.file("list.json", data)
	} else {
		r.miss("list.json", err)
	}
	if data, err := encode(l.snapshot.Devices()); err == nil {
		r.file("devices.json", data)
	}
	for _, d := range l.snapshot.Devices() {
		r.sysfs(d.Address.String())
		words = append(words, d.Address.String())
		if d.Driver != "" && !slices.Contains(drivers, d.Driver) {
			drivers = append(drivers, d.Driver)
		}
		for _, n := range d.Netdevs {
			words = append(words, n.Name+":")
		}
	}
	for _, d := range drivers {
		words = append(words, d+":")
	}
	return drivers, words
}

func (r *reporter) versions(own string, drivers []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "vfctl %s\n", own)
	for _, name := range []string{"sriov", "meta-cni"} {
		path := r.n.path(filepath.Join(r.n.CNIBinDir, name))
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %s %s, %s\n", path, info.Main.Path, info.Main.Version, info.GoVersion)
	}
	for _, file := range []string{"proc/version", "etc/os-release"} {
		if data, err := readProc(r.n.path(file)); err == nil {
			fmt.Fprintf(&b, "\n%s:\n%s", file, data)
		}
	}
	if data, err := readProc(r.n.path("proc/cmdline")); err == nil {
		fmt.Fprintf(&b, "\nproc/cmdline, of it: %s\n", strings.Join(parameters(string(data)), " "))
	}
	for _, d := range drivers {
		for _, attribute := range []string{"version", "srcversion"} {
			if data, err := readProc(r.n.path("sys/module/" + strings.ReplaceAll(d, "-", "_") + "/" + attribute)); err == nil {
				fmt.Fprintf(&b, "driver %s: %s %s", d, attribute, data)
			}
		}
	}
	return b.String()
}

// parameters are those of the kernel's command line that have to do with its devices. Others may be secret.
func parameters(line string) (kept []string) {
	for word := range strings.FieldsSeq(line) {
		key, _, _ := strings.Cut(word, "=")
		key, _, _ = strings.Cut(key, ".")
		if slices.Contains([]string{"iommu", "intel_iommu", "amd_iommu", "pci", "vfio", "vfio-pci", "vfio_pci", "hugepages", "hugepagesz", "default_hugepagesz", "isolcpus"}, key) {
			kept = append(kept, word)
		}
	}
	return kept
}

// readProc reads a small file that has no size of its own.
func readProc(path string) ([]byte, error) { return tail(path, 64<<10) }

// records writes the records of one folder, and what else is in it by name.
func (r *reporter) records(dir string) {
	entries, err := os.ReadDir(r.n.path(dir))
	r.miss(dir, err)
	var listing strings.Builder
	for i, e := range entries {
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&listing, "%s %8d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format("2006-01-02T15:04:05.000Z"), e.Name())
		}
		if !strings.HasSuffix(e.Name(), ".json") || i > maxFiles {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := readFile(r.n.path(file))
		if err == nil {
			data, err = redactRecord(data)
		}
		if err != nil {
			r.miss(file, err)
			data = []byte("left out: " + err.Error() + "\n") // as unreadable there as it is here
		}
		r.file(inTree(file), data)
	}
	if listing.Len() > 0 {
		r.file(inTree(filepath.Join(dir, "listing.txt")), []byte(listing.String()))
	}
}

func (r *reporter) configuration() {
	if data, file, err := r.n.readPools(); err != nil {
		r.miss(file, err)
	} else if data != nil {
		r.json(poolsFile, data, poolKeys) // where it is looked for, wherever it was found
	}
	r.jsonFile(sriov.SiteFile, siteKeys)
	r.jsonFile("/proc/sys/kernel/random/boot_id", nil)
	entries, err := os.ReadDir(r.n.path(r.n.CNIConfDir))
	r.miss(r.n.CNIConfDir, err)
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			r.jsonFile(filepath.Join(r.n.CNIConfDir, e.Name()), harmless)
		}
	}
}

// jsonFile writes a file without what is secret; as it is, if nothing in it can be.
func (r *reporter) jsonFile(file string, known map[string]bool) {
	read := readFile
	if known == nil {
		read = readProc
	}
	data, err := read(r.n.path(file))
	switch {
	case err != nil:
		r.miss(file, err)
	case known == nil:
		r.file(inTree(file), data)
	default:
		r.json(file, data, known)
	}
}

func (r *reporter) json(file string, data []byte, known map[string]bool) {
	data, err := redactJSON(data, known)
	if err != nil {
		r.miss(file, err)
		return
	}
	r.file(inTree(file), data)
}

func (r *reporter) logs() {
	var files []string
	patterns := []string{filepath.Join(r.n.LogDir, "*")}
	for _, name := range []string{"device-plugin", "meta-agent"} {
		// <namespace>_<pod>_<uid>/<container>/: in another namespace anybody may call a pod so.
		patterns = append(patterns, filepath.Join("/var/log/pods", r.n.Namespace+"_"+name+"-*", name, "*.log"))
	}
	for _, pattern := range patterns {
		found, _ := filepath.Glob(r.n.path(pattern))
		files = append(files, found...)
	}
	for i, file := range files {
		if i > maxFiles {
			r.missing = append(r.missing, fmt.Sprintf("%d log files", len(files)-i))
			return
		}
		data, err := tail(file, maxLog)
		if err != nil {
			r.miss(file, err)
			continue
		}
		rel, err := filepath.Rel(r.n.path("/"), file)
		if err != nil {
			rel = filepath.Base(file)
		}
		r.file("logs/"+strings.TrimPrefix(filepath.ToSlash(rel), "var/log/"), redactText(data))
	}
}

// kernel writes the kernel's messages that have one of the words.
func (r *reporter) kernel(words []string) {
	if r.n.captured() {
		return
	}
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		r.miss("the kernel's messages", err)
		return
	}
	r.file("kernel.txt", redactText(linesWith(buf[:n], words)))
}
