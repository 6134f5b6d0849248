package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// fakeKubectl answers from the files of a folder, NAMESPACE.KIND.NAME, and writes down what it was asked.
const fakeKubectl = `#!/bin/sh
printf '%s\n' "$*" >> "$CLUSTER/asked"
namespace=default
while [ "$1" != -- ]; do
	case $1 in --namespace) namespace=$2 ;; --kubeconfig) [ -e "$2" ] || { echo "no $2" >&2; exit 1; } ;; --ignore-not-found) ignore=yes ;; esac
	shift
done
kind=$2; shift 2
for name; do
	if [ -e "$CLUSTER/$namespace.$kind.$name" ]; then cat "$CLUSTER/$namespace.$kind.$name"; echo; echo ---; elif [ -z "$ignore" ]; then echo "$kind $name not found" >&2; exit 1; fi
done
`

const (
	podJSON = `{"kind":"Pod","metadata":{"name":"web","namespace":"shop","annotations":{"k8s.v1.cni.cncf.io/networks":"fast,nets/slow"}},
		"spec":{"containers":[{"resources":{"limits":{"intel.com/sriov":"1"}}}]}}`
	fastJSON = `{"kind":"NetworkAttachmentDefinition","metadata":{"name":"fast","namespace":"shop",
		"annotations":{"k8s.v1.cni.cncf.io/resourceName":"intel.com/sriov"}},"spec":{"config":"{\"type\":\"sriov\"}"}}`
	slowYAML = "kind: NetworkAttachmentDefinition\nmetadata: {name: slow, namespace: nets}\nspec: {config: '{\"type\":\"bridge\"}'}\n"
)

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestExplain(t *testing.T) {
	const nads = "network-attachment-definitions.k8s.cni.cncf.io"
	cluster := write(t, t.TempDir(), map[string]string{
		"kubectl": fakeKubectl, "shop.pod.web": podJSON, "shop." + nads + ".fast": fastJSON, "nets." + nads + ".slow": slowYAML, "config": "",
	})
	t.Setenv("CLUSTER", cluster)
	path := os.Getenv("PATH")
	files := write(t, t.TempDir(), map[string]string{
		"pod.json": podJSON, "slow.yaml": slowYAML, "fast.json": fastJSON, "notes.txt": "kind: [", "all.yaml": podJSON + "\n---\n" + fastJSON + "\n---\n" + slowYAML,
		"bad.yaml": strings.Replace(podJSON, "fast,", "fast,fast,", 1), "multus.conf": `{"namespaceIsolation":true}`, "none.yaml": slowYAML,
		"open.conf": `{"namespaceIsolation":false}`, "half.yaml": strings.Replace(podJSON, "fast,", "Fast,fast,", 1),
	})
	agents := func(options string) string {
		return write(t, t.TempDir(), map[string]string{"00-viaduct.conflist": `{"cniVersion":"1.1.0","name":"viaduct","plugins":[{"type":"meta-cni"` + options + `}]}`})
	}
	isolates := agents(`,"namespaceIsolation":true,"globalNamespaces":["a"]`)
	shares := agents(`,"namespaceIsolation":true,"globalNamespaces":["a","nets"]`)
	gives := agents(`,"defaultNetworks":["side"]`)
	disk, other := write(t, t.TempDir(), map[string]string{"slow.conf": `{"name":"slow","type":"macvlan"}`}), write(t, t.TempDir(), map[string]string{"slow.conf": `{"name":"slow","type":"ipvlan"}`})
	write(t, files, map[string]string{"disk.conf": `{"confDir":"` + disk + `"}`, "override.json": strings.Replace(podJSON, `k8s.v1.cni.cncf.io/networks":"fast,nets/slow`, `v1.multus-cni.io/default-network":"slow`, 1), "ondisk.json": podJSON + "\n---\n" + fastJSON + "\n---\n" + strings.Split(slowYAML, "spec:")[0]})
	tests := map[string]struct {
		args    string
		kubectl bool
		want    []string
		fails   string
		asked   int
	}{
		"a pod of the cluster":         {"web -n shop", true, []string{"pod shop/web", "net1            shop/fast", "net2            nets/slow"}, "", 3},
		"with a kubeconfig":            {"web -n shop --kubeconfig CLUSTER/config", true, []string{"net2"}, "", 3},
		"a kubeconfig that is not":     {"web --kubeconfig /none", true, nil, "no /none", 1},
		"no such pod":                  {"none -n shop", true, nil, "none not found", 1},
		"a file, the cluster's nads":   {"-f FILES/pod.json", true, []string{"net1            shop/fast", "net2            nets/slow"}, "", 2},
		"files alone":                  {"-f FILES/pod.json --nads FILES", false, []string{"net1            shop/fast", "net2            nets/slow"}, "", 0},
		"one file with all":            {"-f FILES/all.yaml", false, []string{"net1            shop/fast", "net2            nets/slow"}, "", 0},
		"one definition":               {"-f FILES/pod.json --nads FILES/fast.json", false, nil, "NoDefinition", 0},
		"a pod that would not start":   {"-f FILES/bad.yaml --nads FILES", false, nil, "MissingDevice", 0},
		"a node that isolates":         {"-f FILES/pod.json --nads FILES --config FILES/multus.conf", false, nil, "NotAllowed", 0},
		"half of an annotation":        {"-f FILES/half.yaml", true, []string{"k8s.v1.cni.cncf.io/networks[0]\n", "(BadName)", "net2            shop/fast\n", "net3            nets/slow"}, "BadName", 2},
		"the agent's flags":            {"-f FILES/pod.json --nads FILES --namespace-isolation --global-namespaces a", false, []string{"net1            shop/fast\n                - asked for", "net2            nets/slow\n                - refused"}, "NotAllowed", 0},
		"its global namespaces":        {"-f FILES/pod.json --nads FILES --namespace-isolation --global-namespaces a,nets", false, []string{"net2            nets/slow\n                - asked for"}, "", 0},
		"flags before the file":        {"-f FILES/pod.json --nads FILES --namespace-isolation=false --config FILES/multus.conf", false, []string{"net2            nets/slow\n                - asked for"}, "", 0},
		"a namespace that is none":     {"-f FILES/pod.json --nads FILES --global-namespaces A", false, nil, "--global-namespaces", 0},
		"this node's agent isolates":   {"-f FILES/pod.json --nads FILES --cni-conf-dir " + isolates, false, []string{"net2            nets/slow\n                - refused"}, "NotAllowed", 0},
		"it does, but for this one":    {"-f FILES/pod.json --nads FILES --cni-conf-dir " + shares, false, []string{"net2            nets/slow\n                - asked for"}, "", 0},
		"its file is given":            {"-f FILES/pod.json --nads FILES --config FILES/open.conf --cni-conf-dir " + isolates, false, []string{"net2            nets/slow\n                - asked for"}, "", 0},
		"it gives networks":            {"-f FILES/pod.json --nads FILES --cni-conf-dir " + gives, false, []string{`also gives pods the networks ["side"]`, "net1            shop/fast"}, "", 0},
		"where it has definitions":     {"-f FILES/override.json --nads FILES --cni-conf-dir " + agents(`,"multusNamespace":"nets"`), false, []string{"eth0            nets/slow\n                - asked for"}, "", 0},
		"its own file is broken":       {"-f FILES/pod.json --nads FILES --cni-conf-dir " + write(t, t.TempDir(), map[string]string{"00-viaduct.conflist": "{"}), false, nil, "00-viaduct.conflist", 0},
		"its file has a folder":        {"-f FILES/ondisk.json --config FILES/disk.conf", false, []string{"plugins: macvlan, from the file " + disk + "/slow.conf"}, "", 0},
		"a flag before that, too":      {"-f FILES/ondisk.json --config FILES/disk.conf --networks-dir " + other, false, []string{"plugins: ipvlan, from the file " + other + "/slow.conf"}, "", 0},
		"no kubectl":                   {"-f FILES/pod.json", false, nil, "--nads", 0},
		"no pod":                       {"-f FILES/none.yaml", false, nil, "no pod", 0},
		"neither a pod nor a file":     {"", false, nil, "name a pod", 0},
		"both":                         {"web -f FILES/pod.json", false, nil, "name a pod", 0},
		"no such file":                 {"-f FILES/gone", false, nil, "gone", 0},
		"no such folder":               {"-f FILES/pod.json --nads FILES/gone", false, nil, "gone", 0},
		"a node's file that is broken": {"-f FILES/pod.json --nads FILES --config FILES/notes.txt", false, nil, "NotJSON", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			if tt.kubectl {
				t.Setenv("PATH", cluster+":"+path)
			}
			if err := os.RemoveAll(filepath.Join(cluster, "asked")); err != nil {
				t.Fatal(err)
			}
			args := strings.Fields(strings.NewReplacer("FILES", files, "CLUSTER", cluster).Replace("explain --cni-conf-dir FILES/none " + tt.args))
			out, err := vfctl(t, args...)
			if (err == nil) != (tt.fails == "") || (err != nil && !strings.Contains(err.Error(), tt.fails)) {
				t.Fatalf("got %v, want %q; %s", err, tt.fails, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			asked, _ := os.ReadFile(filepath.Join(cluster, "asked"))
			if got := strings.Count(string(asked), "\n"); got != tt.asked {
				t.Errorf("the cluster was asked %d times, want %d:\n%s", got, tt.asked, asked)
			}
		})
	}
}

// A kubelet says which devices pods of its node have.
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	pods map[string][]string // name in the namespace shop → ids of intel.com/sriov
}

func (k *kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	answer := &podresources.ListPodResourcesResponse{}
	for name, ids := range k.pods {
		c := &podresources.ContainerResources{Name: "main", Devices: []*podresources.ContainerDevices{{ResourceName: "intel.com/sriov", DeviceIds: ids}}}
		answer.PodResources = append(answer.PodResources, &podresources.PodResources{Namespace: "shop", Name: name, Containers: []*podresources.ContainerResources{c}})
	}
	return answer, nil
}

func (k *kubelet) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	return &podresources.AllocatableResourcesResponse{}, nil
}

// serve answers at the socket below root until the test ends.
func (k *kubelet) serve(t *testing.T, root string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(root, "pod-resources"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(root, "pod-resources", "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(s, k)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Of a pod of the cluster that is on this node, the devices are those that its kubelet gave to it, and no other pod's.
func TestExplainAsksTheKubelet(t *testing.T) {
	const nads = "network-attachment-definitions.k8s.cni.cncf.io"
	second := strings.NewReplacer(`"web"`, `"elsewhere"`).Replace(podJSON)
	cluster := write(t, t.TempDir(), map[string]string{
		"kubectl": fakeKubectl, "shop.pod.web": podJSON, "shop.pod.elsewhere": second, "shop." + nads + ".fast": fastJSON, "nets." + nads + ".slow": slowYAML,
	})
	t.Setenv("CLUSTER", cluster)
	t.Setenv("PATH", cluster+":"+os.Getenv("PATH"))
	root := t.TempDir()
	(&kubelet{pods: map[string][]string{"web": {"0000:02:10.4"}, "other": {"0000:02:10.0"}}}).serve(t, root)
	for name, tt := range map[string]struct{ args, want string }{
		"on this node":              {"web -n shop --kubelet-root " + root, "device 0000:02:10.4 of intel.com/sriov: "},
		"on another":                {"elsewhere -n shop --kubelet-root " + root, "device #001 of intel.com/sriov: "},
		"a node without a kubelet":  {"web -n shop --kubelet-root " + t.TempDir(), "device #001 of intel.com/sriov: "},
		"in a file: yet to be made": {"-f " + filepath.Join(cluster, "shop.pod.web") + " --kubelet-root " + root, "device #001 of intel.com/sriov: "},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := vfctl(t, strings.Fields("explain --cni-conf-dir /none "+tt.args)...)
			if err != nil || !strings.Contains(out, tt.want) || strings.Contains(out, "0000:02:10.0") {
				t.Errorf("got %v, want %q:\n%s", err, tt.want, out)
			}
		})
	}
}
