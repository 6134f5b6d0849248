//go:build cluster

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDaemonsAreRestricted asks the kernel what the running daemons may do: what their manifests ask for has to arrive.
func TestDaemonsAreRestricted(t *testing.T) {
	for _, name := range []string{"device-plugin", "meta-agent"} {
		t.Run(name, func(t *testing.T) {
			// With CDI, which another test may have left on, there is one more. test/deploy knows each by name.
			set, err := client.AppsV1().DaemonSets("viaduct").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var writable []string
			for _, m := range set.Spec.Template.Spec.Containers[0].VolumeMounts {
				if !m.ReadOnly {
					writable = append(writable, m.MountPath)
				}
			}
			if len(writable) < 2 {
				t.Fatalf("its manifest lets it write to %q alone: that cannot be right", writable)
			}
			slices.Sort(writable)
			pids := processes(t, name)
			if len(pids) != 1 {
				t.Fatalf("%d processes called %s, want one", len(pids), name)
			}
			const none = "0000000000000000"
			want := map[string]string{
				"CapEff": none, "CapPrm": none, "CapInh": none, "CapBnd": none, "CapAmb": none,
				"NoNewPrivs": "1", "Seccomp": "2", // filter
			}
			got := map[string]string{}
			for line := range strings.Lines(mustRead(t, fmt.Sprintf("/proc/%d/status", pids[0]))) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
				if _, ok := want[key]; ok {
					got[key] = strings.TrimSpace(value)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("in /proc/PID/status (-want +got):\n%s", d)
			}
			if d := cmp.Diff(writable, writableMounts(mustRead(t, fmt.Sprintf("/proc/%d/mountinfo", pids[0])))); d != "" {
				t.Errorf("of the host it can write to (-want +got):\n%s", d)
			}
		})
	}
}

// writableMounts are the mount points in a mountinfo that can be written to, but for what every container has of its own.
func writableMounts(mountinfo string) (points []string) {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line) // proc_pid_mountinfo(5): the fifth is the mount point, the sixth its options
		point := fields[4]
		own := point == "/proc" || point == "/dev" || strings.HasPrefix(point, "/proc/") || strings.HasPrefix(point, "/dev/") || point == "/etc/hosts"
		if !own && slices.Contains(strings.Split(fields[5], ","), "rw") {
			points = append(points, point)
		}
	}
	slices.Sort(points)
	return points
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
