package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/viaduct-sriov/viaduct/internal/explain"
	"github.com/viaduct-sriov/viaduct/internal/install"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
	"github.com/viaduct-sriov/viaduct/internal/operator"
)

func newExplain() *cobra.Command {
	var e explainer
	cmd := &cobra.Command{
		Use:   "explain [POD]",
		Short: "Say which networks a pod would get, and why, without creating it",
		Long: `Explain plans a pod's networks as the meta-agent does, and says of each interface where it comes from. Of a pod
that would not start it says why, and what to do.

The pod is one of the cluster, by name, or stands in a file, as do templates of pods (Deployment, Job, …). Its network
definitions come from the same file, from --nads, or else from the cluster. The cluster is asked with kubectl, with its
configuration and your rights; with --nads nothing is asked.

What the node allows to pods is taken from the meta-agent's own --config and flags, if they are given here, too; else, on a
node, from what its meta-agent wrote into --cni-conf-dir.

Which device a pod gets is the kubelet's to choose: they are told as #001, #002, … of each resource. Of a pod of the cluster
that is on this node, they are those that the kubelet gave to it.`,
		Example: `  vfctl explain web-0 -n shop
  vfctl explain -f pod.yaml --nads networks/
  kubectl kustomize . | vfctl explain -f -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (e.file != "") {
				return errors.New("name a pod of the cluster, or a file by -f")
			}
			e.in, e.given, e.warn = cmd.InOrStdin(), cmd.Flags().Changed, cmd.ErrOrStderr()
			return e.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.file, "filename", "f", "", "a file with the pod, - for standard input")
	f.StringVar(&e.nads, "nads", "", "a file, or a folder of files, with network definitions; then the cluster is not asked")
	f.StringVarP(&e.namespace, "namespace", "n", "", "the pod's namespace where the file names none (default \"default\"), or in the cluster")
	f.StringVar(&e.kubeconfig, "kubeconfig", "", "kubectl's configuration")
	f.StringVar(&e.config, "config", "", "Multus' configuration file as the node's meta-agent has it")
	f.BoolVar(&e.isolated, isolationFlag, false, "as the node's meta-agent has it: pods are kept to definitions of their own namespace and of --global-namespaces")
	f.StringVar(&e.global, globalFlag, "default", "with --namespace-isolation, the namespaces, separated by commas, whose definitions are for every pod")
	f.StringVar(&e.confDir, "cni-conf-dir", "/etc/cni/net.d", "the runtime's folder of network configurations, where the node's meta-agent wrote what it keeps pods to")
	f.StringVar(&e.kubelet, "kubelet-root", "/var/lib/kubelet", "the kubelet's root folder, with pod-resources/")
	f.StringVar(&e.networks, networksFlag, ondisk.DefaultFolder, "the node's folder of configurations for definitions without spec.config")
	return cmd
}

// The meta-agent's flags of the same names.
const isolationFlag, globalFlag, networksFlag = "namespace-isolation", "global-namespaces", "networks-dir"

type explainer struct {
	file, nads, namespace, kubeconfig, config, networks, kubelet, confDir string

	isolated bool
	global   string
	given    func(flag string) bool
	in       io.Reader
	warn     io.Writer
}

// node is what counts of the node: as the agent has it, flags before its file. Without either, as the agent of this node,
// if there is one, says of itself.
func (e *explainer) node() (explain.Node, error) {
	node := explain.Node{Config: network.DefaultNodeConfig(), Networks: ondisk.Folder(e.networks)}
	if e.config != "" {
		data, err := os.ReadFile(e.config)
		if err != nil {
			return node, err
		}
		if node.Config, err = network.ParseNodeConfig(data); err != nil {
			return node, fmt.Errorf("%s: %w", e.config, err)
		}
		if node.Config.ConfDir != "" && !e.given(networksFlag) {
			node.Networks = ondisk.Folder(node.Config.ConfDir)
		}
	} else if err := e.readNode(node.Config); err != nil {
		return node, err
	}
	if e.given(isolationFlag) {
		node.Config.Policy.Isolated = e.isolated
	}
	if e.given(globalFlag) {
		var err error
		if node.Config.Policy.Global, err = network.ParseNamespaces(e.global); err != nil {
			return node, fmt.Errorf("--%s: %w", globalFlag, err)
		}
	}
	return node, nil
}

// readNode takes what the agent of this node holds pods to, and where it looks for definitions, from the runtime's configuration,
// where the agent wrote it. What it gives to pods beside is not all there: that is only said.
func (e *explainer) readNode(config *network.NodeConfig) error {
	path := filepath.Join(e.confDir, install.Conf)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintf(e.warn, "what this node keeps pods to is not known: %v\n", err)
		return nil
	case err != nil:
		return err
	}
	var conf struct {
		Plugins []struct {
			NamespaceIsolation bool     `json:"namespaceIsolation"`
			GlobalNamespaces   []string `json:"globalNamespaces"`
			MultusNamespace    string   `json:"multusNamespace"`
			DefaultNetworks    []string `json:"defaultNetworks"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range conf.Plugins {
		if p.NamespaceIsolation {
			config.Policy = network.Policy{Isolated: true, Global: p.GlobalNamespaces}
		}
		config.Namespace = cmp.Or(p.MultusNamespace, config.Namespace)
		if len(p.DefaultNetworks) > 0 {
			fmt.Fprintf(e.warn, "this node also gives pods the networks %q: give the meta-agent's --config to see them\n", p.DefaultNetworks)
		}
	}
	return nil
}

func (e *explainer) run(ctx context.Context, out io.Writer, args []string) error {
	node, err := e.node()
	if err != nil {
		return err
	}
	m, err := e.read(ctx, args)
	if err != nil {
		return err
	}
	if len(m.Pods) == 0 {
		return errors.New("there is no pod, and no template of one")
	}
	var errs []error
	for _, pod := range m.Pods {
		if e.nads == "" {
			if err := e.ask(ctx, m, node, pod); err != nil {
				return err
			}
		}
		if e.file == "" {
			e.askDevices(ctx, &pod)
		}
		errs = append(errs, node.Explain(out, pod, m.Definitions))
	}
	return errors.Join(errs...)
}

// askDevices replaces the stand-ins by what the pod has, if it is on this node. Elsewhere no kubelet is to be asked, or it
// does not know the pod.
func (e *explainer) askDevices(ctx context.Context, pod *explain.Pod) {
	node := operator.Node{KubeletRoot: e.kubelet}
	if devices, err := node.DevicesOf(ctx, pod.Namespace, pod.Name); err == nil && len(devices) > 0 {
		pod.Devices = devices
	}
}

// read takes the pods, and the definitions that need no asking.
func (e *explainer) read(ctx context.Context, args []string) (*explain.Manifests, error) {
	m := &explain.Manifests{}
	namespace := e.namespace
	if namespace == "" {
		namespace = "default"
	}
	var data []byte
	var err error
	switch {
	case len(args) == 1:
		data, err = e.kubectl(ctx, e.namespace, "pod", args[0])
	case e.file == "-":
		data, err = io.ReadAll(e.in)
	default:
		data, err = os.ReadFile(e.file)
	}
	if err != nil {
		return nil, err
	}
	if err := m.Read(data, namespace); err != nil || e.nads == "" {
		return m, err
	}
	err = filepath.WalkDir(e.nads, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		nads := explain.Manifests{Definitions: m.Definitions}
		if err := nads.Read(data, namespace); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		m.Definitions = nads.Definitions
		return nil
	})
	return m, err
}

// ask gets from the cluster the definitions that the pod needs and the file does not have, with one request a namespace.
func (e *explainer) ask(ctx context.Context, m *explain.Manifests, node explain.Node, pod explain.Pod) error {
	missing := map[string][]string{}
	for _, ref := range node.References(pod) {
		if m.Definitions[ref] == nil {
			missing[ref.Namespace] = append(missing[ref.Namespace], ref.Name)
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(missing)) {
		data, err := e.kubectl(ctx, namespace, append([]string{"network-attachment-definitions.k8s.cni.cncf.io"}, missing[namespace]...)...)
		if err != nil {
			return err
		}
		if err := m.Read(data, namespace); err != nil {
			return err
		}
	}
	return nil
}

// kubectl gets objects of one kind. A client of our own would make vfctl as large as the meta-agent, and know less of how
// its user is told apart.
func (e *explainer) kubectl(ctx context.Context, namespace string, what ...string) ([]byte, error) {
	args := []string{"get", "-o", "json"}
	if namespace != "" {
		args = append(args, "--namespace", namespace)
	}
	if e.kubeconfig != "" {
		args = append(args, "--kubeconfig", e.kubeconfig)
	}
	if what[0] != "pod" {
		args = append(args, "--ignore-not-found")
	}
	cmd := exec.CommandContext(ctx, "kubectl", append(append(args, "--"), what...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("ask the cluster: %w; without kubectl, give the pod by -f and its network definitions by --nads", err)
	case err != nil:
		return nil, fmt.Errorf("ask the cluster for %s: %w: %s", strings.Join(what, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
