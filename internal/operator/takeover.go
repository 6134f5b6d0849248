package operator

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
	"github.com/viaduct-sriov/viaduct/internal/sriov"
	"github.com/viaduct-sriov/viaduct/internal/takeover"
)

// A Finding is one thing that a node which goes over from other projects' plugins to ours, or back, is looked at for.
type Finding struct {
	Check string `json:"check"`
	// OK says that nothing has to be done about it.
	OK   bool   `json:"ok"`
	Says string `json:"says"`
}

// CheckTakeover looks at who has the node: whose plugins are installed, which configuration the runtime takes, which
// programs of other projects run, and what is still attached by whom.
func (n *Node) CheckTakeover() ([]Finding, error) {
	ours, err := n.Attached()
	if err != nil {
		return nil, err
	}
	open := Finding{Check: "attached by us", OK: true, Says: "nothing"}
	if len(ours) > 0 {
		open.Says = fmt.Sprintf("%d: %s", len(ours), some(ours))
	}
	return slices.Concat(n.checkPlugins(), []Finding{n.checkConf(), n.checkPrograms(), n.checkMultus(), n.checkSRIOV(), open}), nil
}

// checkPlugins says whose the plugins are. Ours that was there and is another's now has been overwritten.
func (n *Node) checkPlugins() (all []Finding) {
	for _, name := range []string{"sriov", "meta-cni"} {
		f := Finding{Check: "plugin " + name}
		switch whose := install.Folder(n.path(n.CNIBinDir)).Whose(name); whose {
		case install.Ours:
			f.OK, f.Says = true, "ours"
		case install.Overwritten:
			f.Says = "another project has put its own over ours: its DaemonSet still runs; delete it, and restart ours"
		default:
			f.Says = string(whose)
		}
		all = append(all, f)
	}
	return all
}

// checkConf says what the runtime reads first.
func (n *Node) checkConf() Finding {
	f := Finding{Check: "the runtime's network"}
	paths, err := ondisk.List(n.path(n.CNIConfDir))
	switch {
	case err != nil:
		f.Says = err.Error()
	case len(paths) == 0:
		f.Says = "there is none in " + n.CNIConfDir
	default:
		if f.Says = filepath.Base(paths[0]); f.Says == install.Conf {
			f.OK = true
		} else {
			f.Says += ": the runtime reads it before " + install.Conf + "; new pods get their networks from there"
		}
	}
	return f
}

// foreign are other projects' programs that would write over our files or offer our devices, by the name of the process.
var foreign = map[string]string{
	"multus-daemon": "Multus' daemon", "sriovdp": "the SR-IOV network device plugin", "kube-multus": "Multus' installer",
}

func (n *Node) checkPrograms() Finding {
	f := Finding{Check: "other projects' programs", OK: true, Says: "none of Multus and the SR-IOV network device plugin runs"}
	found, err := filepath.Glob(n.path("proc/[0-9]*/comm"))
	if err != nil {
		return Finding{Check: f.Check, Says: err.Error()}
	}
	var running []string
	for _, path := range found {
		comm, err := os.ReadFile(path)
		if what := foreign[strings.TrimSpace(string(comm))]; err == nil && what != "" {
			running = append(running, fmt.Sprintf("%s (process %s)", what, filepath.Base(filepath.Dir(path))))
		}
	}
	if len(running) > 0 {
		slices.Sort(running)
		f.OK, f.Says = false, strings.Join(running, ", ")+": delete its DaemonSet"
	}
	return f
}

func (n *Node) checkMultus() Finding {
	f := Finding{Check: "attached by Multus", OK: true, Says: "nothing"}
	dir := n.path(cmp.Or(n.readMeta().MultusDir, takeover.MultusDir))
	ids, err := takeover.Multus(dir).Containers()
	switch {
	case err != nil:
		f.OK, f.Says = false, err.Error()
	case len(ids) > 0:
		f.Says = fmt.Sprintf("sandboxes in %s: %d; meta-cni tears each down when its pod ends", dir, len(ids))
	}
	return f
}

func (n *Node) checkSRIOV() Finding {
	f := Finding{Check: "attached by sriov-cni", OK: true, Says: "nothing"}
	dir := takeover.SRIOV(n.path(takeover.SRIOVDir))
	addresses, err := dir.VFs()
	if err != nil {
		f.OK, f.Says = false, err.Error()
		return f
	}
	var good, bad []string
	for _, address := range addresses {
		if now, _, err := dir.VF(address); err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", address, err))
		} else {
			good = append(good, fmt.Sprintf("%s (%s of container %.12s)", address, now.IfName, now.ContainerID))
		}
	}
	if len(good) > 0 {
		f.Says = fmt.Sprintf("VFs: %d: %s; sriov puts each back when its pod ends", len(good), some(good))
	}
	if len(bad) > 0 {
		f.OK, f.Says = false, fmt.Sprintf("%s; not readable, and reset to safe defaults once their pods are gone: %s", f.Says, some(bad))
	}
	return f
}

// Attached names what only our plugins can take back: VFs with an owner, and sandboxes with more than the default network.
func (n *Node) Attached() ([]string, error) {
	records := sriov.DefaultRecords(n.path(n.StateDir))
	keys, err := records.Keys()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, key := range keys {
		r := &sriov.Record{}
		if err := records.Read(key, r); err != nil {
			all = append(all, fmt.Sprintf("VF %s: %v", key, err))
		} else if r.Phase != sriov.Free {
			all = append(all, fmt.Sprintf("VF %s: %s", key, r.Owner))
		}
	}
	sandboxes, err := n.Runner().List()
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes {
		switch {
		case s.Record == nil:
			all = append(all, fmt.Sprintf("container %s: %v", s.Key, s.Err))
		case s.Record.HasExtra():
			all = append(all, fmt.Sprintf("pod %s/%s: %d networks beside the default one", s.Record.Pod.Namespace, s.Record.Pod.Name, len(s.Record.Attachments)-1))
		}
	}
	return all, nil
}

// some is a list that fits a line or two.
func some(all []string) string {
	const most = 5
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

// PrintFindings writes them for a person.
func PrintFindings(all []Finding) func(io.Writer) error {
	return func(w io.Writer) error {
		rows := make([][]string, len(all))
		for i, f := range all {
			rows[i] = []string{map[bool]string{true: "ok", false: "!"}[f.OK], f.Check, f.Says}
		}
		_, err := io.WriteString(w, strings.Join(align(rows), "\n")+"\n")
		return err
	}
}
