package operator

import (
	"cmp"
	"encoding/json"
	"errors"
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
	// Next is what to do about it.
	Next string `json:"next,omitempty"`
}

// CheckTakeover looks at who has the node: which programs of other projects run, whose plugins are installed, which
// configuration the runtime takes, and what is still attached by whom. What is to be done is in the order to do it in.
func (n *Node) CheckTakeover() ([]Finding, error) {
	ours, err := n.Attached()
	if err != nil {
		return nil, err
	}
	open := Finding{Check: "attached by us", OK: true, Says: "nothing"}
	if len(ours) > 0 {
		open.Says = fmt.Sprintf("%d: %s", len(ours), some(ours))
	}
	running, err := n.foreignPrograms()
	if err != nil {
		return nil, err
	}
	device := checkPrograms("their device plugin", running["sriovdp"], "delete the DaemonSets of the SR-IOV network device plugin and of sriov-cni")
	multus := checkPrograms("Multus' programs", slices.Concat(running["multus-daemon"], running["kube-multus"], running["thin_entrypoint"]),
		"with meta-cni on the node, delete Multus' DaemonSet")
	return slices.Concat([]Finding{device}, n.checkPlugins(), []Finding{multus, n.checkConf(), n.checkMultus(), n.checkSRIOV(), open}), nil
}

const deploy = "put ours on the node: kubectl apply -k conf/"

// checkPlugins says whose the plugins are. Ours that was there and is another's now has been overwritten.
func (n *Node) checkPlugins() (all []Finding) {
	for _, name := range []string{"sriov", "meta-cni"} {
		f := Finding{Check: "plugin " + name}
		switch whose := install.Folder(n.path(n.CNIBinDir)).Whose(name); whose {
		case install.Ours:
			f.OK, f.Says = true, "ours"
		case install.Overwritten:
			f.Says = "another project has put its own over ours: its DaemonSet still runs"
			f.Next = "delete the DaemonSet that installs another project's " + name + ", then: kubectl -n viaduct rollout restart daemonset device-plugin meta-agent"
		default:
			f.Says, f.Next = string(whose), deploy
		}
		all = append(all, f)
	}
	return all
}

// checkConf says what the runtime reads first.
func (n *Node) checkConf() Finding {
	f := Finding{Check: "the runtime's network"}
	paths, err := ondisk.List(n.path(n.CNIConfDir))
	if err != nil {
		f.Says, f.Next = err.Error(), "mend "+n.CNIConfDir
		return f
	}
	if len(paths) == 0 {
		f.Says, f.Next = "there is none in "+n.CNIConfDir, "install the cluster's network add-on"
		return f
	}
	name := filepath.Base(paths[0])
	switch path := filepath.Join(n.CNIConfDir, name); {
	case name == install.Conf:
		f.OK, f.Says = true, name
	case isMultus(paths[0]):
		f.Says = name + ": Multus', of which new pods get their networks"
		f.Next = fmt.Sprintf("with meta-cni on the node, and Multus' DaemonSet gone: mv %s /etc/cni/%s.old", path, name)
	case name < install.Conf:
		f.Says = fmt.Sprintf("%s: the runtime reads it before %s; new pods get their networks from there", name, install.Conf)
		f.Next = fmt.Sprintf("give %s a name that comes after %s", path, install.Conf)
	default:
		f.Says = fmt.Sprintf("%s: %s is not there", name, install.Conf)
		f.Next = deploy + "; meta-agent writes " + install.Conf + " once meta-cni is there, or its log says what is missing"
	}
	return f
}

// isMultus reports whether a configuration is by what it calls.
func isMultus(path string) bool {
	var conf struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if data, err := readFile(path); err != nil || json.Unmarshal(data, &conf) != nil {
		return strings.Contains(filepath.Base(path), "multus")
	}
	if len(conf.Plugins) > 0 {
		conf.Type = conf.Plugins[0].Type
	}
	return strings.HasPrefix(conf.Type, "multus")
}

// foreign are other projects' programs that would write over our files or offer our devices, by the name of the process.
var foreign = map[string]string{
	"multus-daemon": "Multus' daemon", "kube-multus": "Multus' installer", "thin_entrypoint": "Multus' installer",
	"sriovdp": "the SR-IOV network device plugin",
}

// foreignPrograms finds those that run, by the name of the process.
func (n *Node) foreignPrograms() (map[string][]string, error) {
	found, err := filepath.Glob(n.path("proc/[0-9]*/comm"))
	running := map[string][]string{}
	for _, path := range found {
		comm, ended := os.ReadFile(path)
		name := strings.TrimSpace(string(comm))
		if what := foreign[name]; ended == nil && what != "" {
			running[name] = append(running[name], fmt.Sprintf("%s (process %s)", what, filepath.Base(filepath.Dir(path))))
		}
	}
	return running, err
}

func checkPrograms(check string, running []string, next string) Finding {
	if len(running) == 0 {
		return Finding{Check: check, OK: true, Says: "does not run"}
	}
	slices.Sort(running)
	return Finding{Check: check, Says: strings.Join(running, ", "), Next: next}
}

func (n *Node) checkMultus() Finding {
	f := Finding{Check: "attached by Multus", OK: true, Says: "nothing"}
	dir := n.path(cmp.Or(n.readMeta().MultusDir, takeover.MultusDir))
	ids, err := takeover.Multus(dir).Containers()
	switch {
	case err != nil:
		f.OK, f.Says, f.Next = false, err.Error(), "mend "+dir
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
		f.OK, f.Says, f.Next = false, err.Error(), "mend "+string(dir)
		return f
	}
	var good, bad []string
	for _, address := range addresses {
		switch now, _, err := dir.VF(address); {
		case errors.Is(err, takeover.ErrNotExist): // it was only locked
		case err != nil:
			bad = append(bad, fmt.Sprintf("%s: %v", address, err))
		default:
			good = append(good, fmt.Sprintf("%s (%s of container %.12s)", address, now.IfName, now.ContainerID))
		}
	}
	if len(good) > 0 {
		f.Says = fmt.Sprintf("VFs: %d: %s; sriov puts each back when its pod ends", len(good), some(good))
	}
	if len(bad) > 0 {
		f.OK, f.Says = false, fmt.Sprintf("%s; not readable, and reset to safe defaults once their pods are gone: %s", f.Says, some(bad))
		f.Next = "delete the pods that have these VFs when it suits you: what sriov-cni saved of them is lost, and their next pods get safe defaults"
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

// PrintFindings writes them for a person, and below them what to do next.
func PrintFindings(all []Finding) func(io.Writer) error {
	return func(w io.Writer) error {
		rows := make([][]string, len(all))
		var next []string
		for i, f := range all {
			rows[i] = []string{map[bool]string{true: "ok", false: "!"}[f.OK], f.Check, f.Says}
			if f.Next != "" && !slices.Contains(next, f.Next) {
				next = append(next, f.Next)
			}
		}
		lines := append(align(rows), "", "next:")
		for i, line := range next {
			lines = append(lines, fmt.Sprintf("%d. %s", i+1, line))
		}
		if len(next) == 0 {
			lines = append(lines, "   nothing: new pods are ours, and pods that others attached are torn down by our plugins when they end")
		}
		_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
		return err
	}
}
