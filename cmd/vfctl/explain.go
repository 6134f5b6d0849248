package main

import (
	"bytes"
	"context"
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
			e.in = cmd.InOrStdin()
			return e.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.file, "filename", "f", "", "a file with the pod, - for standard input")
	f.StringVar(&e.nads, "nads", "", "a file, or a folder of files, with network definitions; then the cluster is not asked")
	f.StringVarP(&e.namespace, "namespace", "n", "", "the pod's namespace where the file names none (default \"default\"), or in the cluster")
	f.StringVar(&e.kubeconfig, "kubeconfig", "", "kubectl's configuration")
	f.StringVar(&e.config, "config", "", "Multus' configuration file as the node's meta-agent has it")
	f.StringVar(&e.kubelet, "kubelet-root", "/var/lib/kubelet", "the kubelet's root folder, with pod-resources/")
	f.StringVar(&e.networks, "networks-dir", ondisk.DefaultFolder, "the node's folder of configurations for definitions without spec.config")
	return cmd
}

type explainer struct {
	file, nads, namespace, kubeconfig, config, networks, kubelet string
	in                                                           io.Reader
}

func (e *explainer) run(ctx context.Context, out io.Writer, args []string) error {
	node := explain.Node{Config: network.DefaultNodeConfig(), Networks: ondisk.Folder(e.networks)}
	if e.config != "" {
		data, err := os.ReadFile(e.config)
		if err != nil {
			return err
		}
		if node.Config, err = network.ParseNodeConfig(data); err != nil {
			return fmt.Errorf("%s: %w", e.config, err)
		}
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
	refs, err := node.References(pod)
	if err != nil {
		return nil //nolint:nilerr // Explain will say so
	}
	missing := map[string][]string{}
	for _, ref := range refs {
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
