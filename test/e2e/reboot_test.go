//go:build cluster && reboot

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Behind a tag of its own: it takes two starts of the cluster.
var rebootHalf = flag.String("reboot", "", "before or after: this half of TestReboot, with a reboot of the cluster's node (--persist) between the two")

const (
	outlives = "outlives"
	// keptPath is on the disk that outlives the reboot.
	keptPath = "/persist/before-the-reboot.json"
	attached = 3 // pods that run when the node goes down
	starting = 2 // and pods that are on their way
)

// kept is what the second half has to know of the first.
type kept struct {
	Node picture // without pods
	Pods []types.UID
}

// TestReboot reboots the node while pods hold VFs and others start. Its pods are a ReplicaSet's: a kubelet that comes up before
// the device plugin refuses pods that it had, for good.
func TestReboot(t *testing.T) {
	switch *rebootHalf {
	case "before":
		beforeReboot(t)
	case "after":
		afterReboot(t)
	default:
		t.Fatal("say which half: make reboot")
	}
}

func beforeReboot(t *testing.T) {
	k := kept{Node: baseline}
	spec := pod{name: outlives, networks: "vlan100", vfs: 1}.spec()
	spec.Labels = map[string]string{"app": outlives}
	_, err := client.AppsV1().ReplicaSets(namespace).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: outlives},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(attached)), Selector: &metav1.LabelSelector{MatchLabels: spec.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: spec.Labels, Annotations: spec.Annotations}, Spec: spec.Spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods := outliving(t, attached)
	for _, p := range pods {
		k.Pods = append(k.Pods, p.UID)
	}
	data, err := json.Marshal(k)
	if err == nil {
		err = os.WriteFile(keptPath, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	// These are on their way when the node goes down.
	more := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, attached+starting)
	_, err = client.AppsV1().ReplicaSets(namespace).Patch(t.Context(), outlives, types.MergePatchType, more, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	catch(t, "sriov", func(int) bool { return true })
}

// outliving waits until n pods of the ReplicaSet run, each with its VF and settings, and returns them.
func outliving(t *testing.T, n int) (running []corev1.Pod) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d pods to run", n), func(ctx context.Context) error {
		running = nil
		list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + outlives})
		if err != nil {
			return err
		}
		now, err := look()
		if err != nil {
			return err
		}
		held := map[string]bool{}
		for _, p := range list.Items {
			if p.Status.Phase == corev1.PodFailed {
				continue // the ReplicaSet makes another
			}
			address, err := hasItsVF(ctx, p, now)
			if err == nil && held[address] {
				err = fmt.Errorf("VF %s is another pod's, too", address)
			}
			if err != nil {
				return fmt.Errorf("pod %s: %w; its events: %q", p.Name, err, pod{name: p.Name}.events(ctx))
			}
			held[address] = true
			running = append(running, p)
		}
		if len(running) != n {
			return fmt.Errorf("%d run", len(running))
		}
		return nil
	})
	return running
}

// hasItsVF says what a pod lacks of a running one on vlan100: its VF is set as the network says, and in the pod as its
// network-status tells.
func hasItsVF(ctx context.Context, p corev1.Pod, now picture) (address string, err error) {
	if len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].State.Running == nil {
		return "", fmt.Errorf("it is %s, and its container does not run", p.Status.Phase)
	}
	var status []podNetwork
	if err = json.Unmarshal([]byte(p.Annotations[statusAnnotation]), &status); err != nil || len(status) != 2 || status[1].DeviceInfo == nil || len(status[1].IPs) != 1 {
		return "", fmt.Errorf("its network-status is %q", p.Annotations[statusAnnotation])
	}
	address = status[1].DeviceInfo.PCI.Address
	v, there := now.VFs[address]
	if !there || v.Link != nil || v.Entry.VLAN != 100 || v.Entry.QoS != 3 || v.Entry.SpoofCheck || !v.Entry.Trust {
		return "", fmt.Errorf("its VF %s is not as vlan100 has it: %+v", address, v)
	}
	inside, err := pod{name: p.Name}.exec(ctx, "ip", "addr", "show", "net1")
	if err == nil && (!strings.Contains(inside, status[1].MAC) || !strings.Contains(inside, "inet "+status[1].IPs[0]+"/")) {
		err = fmt.Errorf("network-status says %+v, and the pod has:\n%s", status[1], inside)
	}
	return address, err
}

func afterReboot(t *testing.T) {
	began := time.Now()
	data, err := os.ReadFile(keptPath)
	if err != nil {
		t.Fatal(err)
	}
	var k kept
	if err = json.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, p := range outliving(t, attached+starting) {
		if slices.Contains(k.Pods, p.UID) {
			again++
		}
	}
	took := time.Since(began)
	err = client.AppsV1().ReplicaSets(namespace).Delete(t.Context(), outlives, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)})
	if err != nil {
		t.Fatal(err)
	}
	withoutMACs(k.Node)
	eventually(t, "the node to be as it was before the pods", func(context.Context) error {
		now, err := look()
		if err != nil {
			return err
		}
		withoutMACs(now)
		if diff := cmp.Diff(k.Node, now); diff != "" {
			return fmt.Errorf("it differs (-before +now):\n%s", diff)
		}
		return noPlugins(t)
	})
	t.Logf("%d pods were attached and %d on their way: all run %s after the DaemonSets do, %d of the first in their old pods, the others in pods that replace them",
		attached, starting, seconds(took), again)
}

// withoutMACs forgets them: the VFs are other ones since the boot.
func withoutMACs(p picture) {
	for address, v := range p.VFs {
		v.Entry.MAC = ""
		if v.Link != nil {
			v.Link.MAC = ""
		}
		p.VFs[address] = v
	}
}
