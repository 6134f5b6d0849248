//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestUpgrade rolls both DaemonSets out anew, and back, while pods with a VF come and go without a pause. The plugins on the
// node are other files each time, so both init containers replace what runs. Each pod that runs has all of its networks; one
// that could not start is tried again, by the kubelet or by its ReplicaSet.
func TestUpgrade(t *testing.T) {
	leaveNothing(t)
	c := churn{t: t}
	c.start()
	c.more("before", 2)
	for _, release := range []string{"upgrade", "rollback"} {
		want := otherPlugins(t)
		for _, name := range []string{"device-plugin", "meta-agent"} {
			patch := `{"spec":{"template":{"metadata":{"annotations":{"release":"` + release + `"}}}}}`
			_, err := client.AppsV1().DaemonSets("viaduct").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, release, deployed)
		for path, size := range want {
			if info, err := os.Stat(path); err != nil || info.Size() != size {
				t.Errorf("%s: %s was not replaced: %v", release, path, err)
			}
		}
		c.more("after "+release, 2)
	}
	t.Logf("%d pods ran, %d were refused and replaced", c.ran.Load(), c.refused.Load())
}

// otherPlugins makes the node's plugins differ from what is installed, as another release's do, by a byte at their end. It
// returns the sizes that an install makes.
func otherPlugins(t *testing.T) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for _, name := range []string{"sriov", "meta-cni"} {
		path := filepath.Join("/opt/cni/bin", name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes[path] = int64(len(data))
		if err := errors.Join(os.WriteFile(path+".other", append(data, 0), 0o755), os.Rename(path+".other", path)); err != nil {
			t.Fatal(err)
		}
	}
	return sizes
}

// A churn is pods of a ReplicaSet, each deleted as soon as it runs.
type churn struct {
	t            *testing.T
	ran, refused atomic.Int64
}

const churning = "churn"

func (c *churn) start() {
	c.t.Helper()
	spec := pod{name: churning, networks: "vlan100", vfs: 1}.spec()
	spec.Labels = map[string]string{"app": churning}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: churning},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: spec.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: spec.Labels, Annotations: spec.Annotations}, Spec: spec.Spec},
		},
	}
	if _, err := client.AppsV1().ReplicaSets(namespace).Create(c.t.Context(), set, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := c.round(ctx); err != nil && ctx.Err() == nil {
				c.t.Error(err)
				return
			}
			time.Sleep(100 * time.Millisecond) // between two looks
		}
	}()
	c.t.Cleanup(func() {
		stop()
		<-done
		c.end(context.WithoutCancel(ctx))
	})
}

// end waits until the last of its pods is gone.
func (c *churn) end(ctx context.Context) {
	err := client.AppsV1().ReplicaSets(namespace).Delete(ctx, churning, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)})
	if err == nil {
		err = poll(ctx, func(ctx context.Context) error {
			pods, listErr := c.pods(ctx)
			if listErr == nil && len(pods) > 0 {
				listErr = fmt.Errorf("%d pods are left", len(pods))
			}
			return listErr
		})
	}
	if err != nil {
		c.t.Error(err)
	}
}

func (c *churn) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + churning})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// round looks at each pod, and deletes those that have come to an end: that run, or were refused.
func (c *churn) round(ctx context.Context) error {
	pods, err := c.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		switch p.Status.Phase {
		case corev1.PodRunning:
			c.ran.Add(1)
			var status []podNetwork
			if err := json.Unmarshal([]byte(p.Annotations[statusAnnotation]), &status); err != nil || len(status) != 2 || status[1].DeviceInfo == nil {
				return fmt.Errorf("pod %s runs, and its network-status is %q", p.Name, p.Annotations[statusAnnotation])
			}
		case corev1.PodFailed:
			c.refused.Add(1)
		default:
			continue
		}
		err := client.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// more waits until so many further pods have run.
func (c *churn) more(when string, n int64) {
	c.t.Helper()
	until := c.ran.Load() + n
	eventually(c.t, "pods to run "+when, func(context.Context) error {
		if ran := c.ran.Load(); ran < until {
			return fmt.Errorf("%d of %d ran", ran, until)
		}
		return nil
	})
}
