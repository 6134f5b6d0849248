package deploy

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

var (
	namespace    = []string{"Namespace /viaduct"}
	devicePlugin = []string{"ConfigMap viaduct/sriovdp-config", "DaemonSet viaduct/device-plugin", "ServiceAccount viaduct/device-plugin"}
	metaCNI      = []string{
		"ClusterRole /viaduct-meta-agent", "ClusterRoleBinding /viaduct-meta-agent",
		"CustomResourceDefinition /network-attachment-definitions.k8s.cni.cncf.io", "DaemonSet viaduct/meta-agent",
		"ServiceAccount viaduct/meta-agent", "ValidatingAdmissionPolicy /viaduct-meta-agent",
		"ValidatingAdmissionPolicy /viaduct-meta-agent-events", "ValidatingAdmissionPolicyBinding /viaduct-meta-agent-events",
		"ValidatingAdmissionPolicyBinding /viaduct-meta-agent",
	}
)

// Each overlay is the parts that its name says, and each object is where it belongs.
func TestOverlaysAreComplete(t *testing.T) {
	parts := map[string][][]string{
		"overlays/device-plugin": {namespace, devicePlugin},
		"overlays/meta":          {namespace, metaCNI},
	}
	for _, overlay := range overlays(t) {
		t.Run(overlay, func(t *testing.T) {
			want := parts[overlay]
			if want == nil {
				want = [][]string{namespace, devicePlugin, metaCNI}
			}
			wanted := slices.Concat(want...)
			slices.Sort(wanted)
			if d := cmp.Diff(wanted, slices.Sorted(maps.Keys(kustomize(t, overlay)))); d != "" {
				t.Errorf("objects: -want +got:\n%s", d)
			}
		})
	}
}

// No container has more rights than it needs, whatever the overlay.
func TestContainersAreRestricted(t *testing.T) {
	for _, overlay := range overlays(t) {
		for name, pod := range kustomize(t, overlay).pods(t) {
			want := &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
			if overlay == "overlays/selinux" {
				want.SELinuxOptions = &corev1.SELinuxOptions{Type: "spc_t"}
			}
			if d := cmp.Diff(want, pod.SecurityContext); d != "" {
				t.Errorf("%s: %s: the pod's security context: -want +got:\n%s", overlay, name, d)
			}
			if pod.HostPID || pod.HostIPC || pod.HostUsers != nil {
				t.Errorf("%s: %s: uses the host's processes, IPC or users", overlay, name)
			}
			for _, c := range containers(pod) {
				restricted := &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: new(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				}
				// Who writes into the CNI folders, where these are not root's.
				if overlay == "overlays/dac-override" && c.Name != "device-plugin" {
					restricted.Capabilities.Add = []corev1.Capability{"DAC_OVERRIDE"}
				}
				if d := cmp.Diff(restricted, c.SecurityContext); d != "" {
					t.Errorf("%s: %s/%s: security context: -want +got:\n%s", overlay, name, c.Name, d)
				}
				if len(c.Ports) > 0 {
					t.Errorf("%s: %s/%s: opens ports", overlay, name, c.Name)
				}
			}
		}
	}
}

// paths are where a node has things, and with what each container then sees of the host: "path" may be written, "path (ro)"
// only read. It is the list to justify to whoever lets this onto nodes; docs/security.md does.
type paths struct {
	cniBin, cniConf, kubelet string
	cdi                      bool
}

func (p paths) devicePlugin() map[string][]string {
	daemon := []string{
		"/var/lib/kubelet/device-plugins", p.kubelet + "/plugins_registry", p.kubelet + "/pod-resources (ro)",
		"/var/run/k8s.cni.cncf.io/devinfo",
	}
	if p.cdi {
		daemon = append(daemon, "/var/run/cdi")
	}
	return map[string][]string{"device-plugin/install": {p.cniBin}, "device-plugin/device-plugin": daemon}
}

func (p paths) metaAgent() map[string][]string {
	return map[string][]string{"meta-agent/install": {p.cniBin}, "meta-agent/meta-agent": {
		p.cniConf, p.cniBin + " (ro)", "/run/viaduct/agent", "/var/lib/viaduct (ro)", p.kubelet + "/pod-resources (ro)",
		"/var/run/k8s.cni.cncf.io/devinfo (ro)",
	}}
}

func (p paths) everything() map[string][]string {
	all := p.devicePlugin()
	// Where the meta CNI is, too, it is waited for.
	all["device-plugin/device-plugin"] = append(all["device-plugin/device-plugin"], p.cniConf+" (ro)")
	maps.Copy(all, p.metaAgent())
	return all
}

func TestHostPaths(t *testing.T) {
	usual := paths{cniBin: "/opt/cni/bin", cniConf: "/etc/cni", kubelet: "/var/lib/kubelet"}
	with := func(change func(*paths)) map[string][]string {
		p := usual
		change(&p)
		return p.everything()
	}
	tests := map[string]map[string][]string{
		".":                      usual.everything(),
		"overlays/device-plugin": usual.devicePlugin(),
		"overlays/meta":          usual.metaAgent(),
		"overlays/selinux":       usual.everything(),
		"overlays/dac-override":  usual.everything(),
		"overlays/cdi":           with(func(p *paths) { p.cdi = true }),
		"overlays/var-lib-cni":   with(func(p *paths) { p.cniBin = "/var/lib/cni/bin" }),
		"overlays/k0s":           with(func(p *paths) { p.kubelet = "/var/lib/k0s/kubelet" }),
		"overlays/k3s": with(func(p *paths) {
			p.cniBin, p.cniConf = "/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni"
		}),
	}
	for _, overlay := range overlays(t) {
		t.Run(overlay, func(t *testing.T) {
			want := tests[overlay]
			for _, of := range want {
				slices.Sort(of)
			}
			if d := cmp.Diff(want, hostPaths(kustomize(t, overlay).pods(t))); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func hostPaths(pods map[string]corev1.PodSpec) map[string][]string {
	got := map[string][]string{}
	for name, pod := range pods {
		host := map[string]string{}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				host[v.Name] = v.HostPath.Path
			}
		}
		for _, c := range containers(pod) {
			var of []string
			for _, m := range c.VolumeMounts {
				if path := host[m.Name]; path != "" && m.ReadOnly {
					of = append(of, path+" (ro)")
				} else if path != "" {
					of = append(of, path)
				}
			}
			slices.Sort(of)
			got[name+"/"+c.Name] = of
		}
	}
	return got
}

// The programs look in the same places inside, whatever the host calls them.
func TestPathsInsideStay(t *testing.T) {
	inside := func(overlay string) map[string][]string {
		got := map[string][]string{}
		for name, pod := range kustomize(t, overlay).pods(t) {
			for _, c := range containers(pod) {
				for _, m := range c.VolumeMounts {
					if m.Name != "cdi" && (m.Name != "cni-conf" || name != "device-plugin") {
						got[name+"/"+c.Name] = append(got[name+"/"+c.Name], m.MountPath)
					}
				}
			}
		}
		return got
	}
	want := inside(".")
	for _, overlay := range overlays(t) {
		for container, got := range inside(overlay) {
			if d := cmp.Diff(want[container], got); d != "" {
				t.Errorf("%s: %s: -everything +got:\n%s", overlay, container, d)
			}
		}
	}
}

// One container gets a token: the agent's. Nobody else's gets one by default either.
func TestTokens(t *testing.T) {
	for _, overlay := range overlays(t) {
		all := kustomize(t, overlay)
		for name, pod := range all.pods(t) {
			account := decode[corev1.ServiceAccount](t, all, "ServiceAccount viaduct/"+pod.ServiceAccountName)
			for what, mounts := range map[string]*bool{"account": account.AutomountServiceAccountToken, "pod": pod.AutomountServiceAccountToken} {
				if mounts == nil || *mounts {
					t.Errorf("%s: %s: its %s mounts tokens into all containers", overlay, name, what)
				}
			}
			tokens := map[string]bool{}
			for _, v := range pod.Volumes {
				tokens[v.Name] = v.Secret != nil || v.Projected != nil
				if v.Secret != nil {
					t.Errorf("%s: %s: a secret, which does not end", overlay, name)
				}
				if v.Projected == nil {
					continue
				}
				for _, s := range v.Projected.Sources {
					// An hour is what docs/security.md promises of a stolen one.
					if of := s.ServiceAccountToken; of != nil && (of.ExpirationSeconds == nil || *of.ExpirationSeconds != 3600) {
						t.Errorf("%s: %s: a token that does not last 3600 seconds: %v", overlay, name, s)
					}
				}
			}
			for _, c := range containers(pod) {
				has := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return tokens[m.Name] })
				if has != (c.Name == "meta-agent") {
					t.Errorf("%s: %s/%s: has a token: %v", overlay, name, c.Name, has)
				}
			}
		}
	}
}

// What the agent may do at the API server, to the letter. The device plugin is in no binding.
func TestRights(t *testing.T) {
	for _, overlay := range overlays(t) {
		all := kustomize(t, overlay)
		if all["ClusterRole /viaduct-meta-agent"] == nil {
			continue
		}
		role := decode[rbacv1.ClusterRole](t, all, "ClusterRole /viaduct-meta-agent")
		read := []string{"get", "list", "watch"}
		want := []rbacv1.PolicyRule{
			{APIGroups: []string{"k8s.cni.cncf.io"}, Resources: []string{"network-attachment-definitions"}, Verbs: read},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: read},
			{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"patch"}},
			{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
		}
		if d := cmp.Diff(want, role.Rules); d != "" {
			t.Errorf("%s: rules: -want +got:\n%s", overlay, d)
		}
		binding := decode[rbacv1.ClusterRoleBinding](t, all, "ClusterRoleBinding /viaduct-meta-agent")
		subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "viaduct", Name: all.pods(t)["meta-agent"].ServiceAccountName}}
		if d := cmp.Diff(subjects, binding.Subjects); d != "" || binding.RoleRef.Name != role.Name {
			t.Errorf("%s: the binding joins %s and: -want +got:\n%s", overlay, binding.RoleRef.Name, d)
		}
	}
	for key := range kustomize(t, ".") {
		if strings.Contains(key, "Role") && !slices.Contains(metaCNI, key) {
			t.Errorf("another role: %s", key)
		}
	}
}

// Where both are, a node offers no VF before a pod that gets it gets its networks: the device plugin waits for the file that the
// agent writes, where it sees it.
func TestVFsWaitForTheMetaCNI(t *testing.T) {
	const conf = "00-viaduct.conflist"
	source, err := os.ReadFile("../../internal/install/conf.go")
	if err != nil || !strings.Contains(string(source), strconv.Quote(conf)) {
		t.Errorf("the agent writes another file than %s: %v", conf, err)
	}
	for _, overlay := range overlays(t) {
		pods := kustomize(t, overlay).pods(t)
		_, meta := pods["meta-agent"]
		for _, c := range pods["device-plugin"].Containers {
			waits := ""
			for _, e := range c.Env {
				if e.Name == "WAIT_FOR_FILE" {
					waits = e.Value
				}
			}
			want := ""
			if meta {
				want = "/etc/cni/net.d/" + conf
			}
			sees := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/cni" })
			if waits != want || sees != meta {
				t.Errorf("%s: the device plugin waits for %q, want %q; sees the folder: %t", overlay, waits, want, sees)
			}
		}
	}
}
