package node

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/viaduct-sriov/viaduct/test/cluster/api"
	"github.com/viaduct-sriov/viaduct/test/cluster/controlplane"
	"github.com/viaduct-sriov/viaduct/test/cluster/process"
	"github.com/viaduct-sriov/viaduct/test/lab/kernellog"
)

// podLogs is where the kubelet keeps what containers print: <namespace>_<pod>_<uid>/<container>/<n>.log.
const podLogs = "/var/log/pods"

type podList struct {
	Items []struct {
		Metadata struct{ Namespace, Name string }
		Status   struct {
			Phase             string
			Message           string
			ContainerStatuses []struct {
				Name  string
				State map[string]struct{ Reason, Message string }
			}
		}
	}
}

type eventList struct {
	Items []struct {
		InvolvedObject        struct{ Kind, Namespace, Name string }
		Type, Reason, Message string
	}
}

// report writes what helps to see why something failed: pods, events, the last lines of pods and daemons.
func (c Config) report(ctx context.Context, group *process.Group, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if admin, err := c.Secrets.Admin(controlplane.GuestServer); err != nil {
		fmt.Fprintf(w, "\n=== API\n  (%v)\n", err)
	} else {
		fmt.Fprintln(w, "\n=== pods")
		reportPods(ctx, w, admin)
		fmt.Fprintln(w, "=== events")
		reportEvents(ctx, w, admin)
	}
	found, _ := filepath.Glob(podLogs + "/*/*/*.log") // the pattern is well-formed
	for _, path := range found {
		fmt.Fprintf(w, "=== %s\n%s\n", path[len(podLogs)+1:], process.Tail(path, 20))
	}
	for _, name := range []string{"kube-proxy", "containerd", "kubelet"} {
		fmt.Fprintf(w, "=== %s\n%s\n", name, group.Tail(name, 40))
	}
	fmt.Fprintf(w, "=== kernel\n%s\n===\n", kernellog.Tail(40))
}

func reportPods(ctx context.Context, w io.Writer, admin *api.Client) {
	var pods podList
	if err := admin.Get(ctx, "/api/v1/pods", &pods); err != nil {
		fmt.Fprintf(w, "  (%v)\n", err)
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, p := range pods.Items {
		fmt.Fprintf(t, "  %s/%s\t%s\t%s\n", p.Metadata.Namespace, p.Metadata.Name, p.Status.Phase, p.Status.Message)
		for _, c := range p.Status.ContainerStatuses {
			for state, why := range c.State {
				fmt.Fprintf(t, "    %s\t%s\t%s %s\n", c.Name, state, why.Reason, why.Message)
			}
		}
	}
}

func reportEvents(ctx context.Context, w io.Writer, admin *api.Client) {
	var events eventList
	if err := admin.Get(ctx, "/api/v1/events", &events); err != nil {
		fmt.Fprintf(w, "  (%v)\n", err)
		return
	}
	for _, e := range events.Items[max(0, len(events.Items)-50):] {
		fmt.Fprintf(w, "  %s %s %s/%s: %s: %s\n", e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.Reason, e.Message)
	}
}
