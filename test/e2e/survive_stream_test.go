//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A stream is pods with a VF that come and go without a pause: each is deleted as soon as it runs, and the next made before
// that one is gone. One that the kubelet refuses is replaced, as a ReplicaSet would.
type stream struct {
	held []string      // VFs that none of these pods may get
	turn chan struct{} // has an element while a pod is on its way, or pause holds it: unlike a mutex, first come, first served
	last time.Time     // when one was last seen to run; with turn

	made                         atomic.Int64  // pods
	ran, refused, delayed, since atomic.Int64  // pods; since: those delayed since mark
	normal                       time.Duration // the longest that a pod took before the first fault
	struck                       atomic.Bool
}

// Delayed is a pod that took so many times as long as any did before the first fault.
const delayed = 2

func startStream(t *testing.T, held []string) *stream {
	t.Helper()
	c := &stream{held: held, turn: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c.turn <- struct{}{}
			err := c.one(ctx)
			<-c.turn
			if err != nil && ctx.Err() == nil {
				t.Errorf("pods that come and go: %v", err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if err := c.clear(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return c
}

// one makes a pod, waits until it runs or is refused, and deletes it.
func (c *stream) one(ctx context.Context) error {
	c.made.Add(1)
	p := c.now()
	made := p.spec()
	made.Spec.TerminationGracePeriodSeconds = new(int64(1)) // with none, its VF is given to the next pod before it is back, which has to wait
	made.Labels = map[string]string{"app": "stream"}
	began := time.Now()
	err := poll(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().Pods(namespace).Create(ctx, made, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the answer to the try before was lost
			err = nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("make %s: %w", p.name, err)
	}
	now, err := c.await(ctx, p)
	if err != nil {
		return err
	}
	c.count(now, time.Since(began))
	if now.Status.Phase == corev1.PodRunning {
		if err := c.isWhole(ctx, p); err != nil {
			return err
		}
	}
	return poll(ctx, func(ctx context.Context) error {
		err := client.CoreV1().Pods(namespace).Delete(ctx, p.name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return err
	})
}

// now is the pod on its way.
func (c *stream) now() pod {
	return pod{name: fmt.Sprintf("comes-and-goes-%d", c.made.Load()), networks: "vlan100", vfs: 1}
}

// await returns the pod when it runs or has failed. It looks once a second: the node has one slow CPU for all that it does.
func (c *stream) await(ctx context.Context, p pod) (*corev1.Pod, error) {
	for until := time.Now().Add(patience); ; {
		now, err := p.get(ctx)
		switch {
		case err == nil && now.Status.Phase != corev1.PodPending:
			return now, nil
		case time.Now().After(until):
			return nil, errors.Join(err, fmt.Errorf("pod %s does not run after %s; its events: %q", p.name, patience, p.events(ctx)))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// isWhole waits until a pod that runs says that it has all of its networks, with a VF that is free. Where the agent was killed
// after it had planned, it says so later.
func (c *stream) isWhole(ctx context.Context, p pod) error {
	return poll(ctx, func(ctx context.Context) error {
		now, err := p.get(ctx)
		if err != nil {
			return err
		}
		var status []podNetwork
		text := now.Annotations[statusAnnotation]
		if err := json.Unmarshal([]byte(text), &status); err != nil || len(status) != 2 || status[1].DeviceInfo == nil {
			return fmt.Errorf("pod %s runs, and its network-status is %q", p.name, text)
		}
		if device := status[1].DeviceInfo.PCI.Address; slices.Contains(c.held, device) {
			return fmt.Errorf("pod %s has VF %s, which another pod has", p.name, device)
		}
		return nil
	})
}

// count notes how a pod came to run.
func (c *stream) count(p *corev1.Pod, took time.Duration) {
	switch {
	case p.Status.Phase == corev1.PodFailed:
		c.refused.Add(1)
		c.delayed.Add(1)
		c.since.Add(1)
		return
	case !c.struck.Load():
		c.normal = max(c.normal, took)
	case took > delayed*c.normal:
		c.delayed.Add(1)
		c.since.Add(1)
	}
	c.ran.Add(1)
	c.last = time.Now()
}

// another waits until one more pod has run.
func (c *stream) another(t *testing.T, when string) {
	t.Helper()
	before := c.ran.Load()
	eventually(t, "a pod to run "+when, func(ctx context.Context) error {
		if c.ran.Load() > before {
			return nil
		}
		p := c.now()
		return fmt.Errorf("none has; the events of %s: %q", p.name, p.events(ctx))
	})
}

// told waits until an event on the pod that is on its way has all the words.
func (c *stream) told(t *testing.T, words ...string) {
	t.Helper()
	says := func(e string) bool {
		return strings.HasPrefix(e, "FailedCreatePodSandBox: ") && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e, w) })
	}
	eventually(t, fmt.Sprintf("a pod to be told %q", words), func(ctx context.Context) error {
		p := c.now()
		if got := p.events(ctx); !slices.ContainsFunc(got, says) {
			return fmt.Errorf("the events of %s: %q", p.name, got)
		}
		return nil
	})
}

// mark has pause count from now on.
func (c *stream) mark() {
	c.struck.Store(true)
	c.since.Store(0)
}

// pause returns when a pod has run after the fault was over, and all are gone. It tells how many were delayed since mark.
func (c *stream) pause(t *testing.T, over time.Time) (delayed int) {
	t.Helper()
	c.turn <- struct{}{}
	for until := time.Now().Add(patience); c.last.Before(over); {
		err := c.one(t.Context())
		if err == nil && time.Now().After(until) {
			err = fmt.Errorf("the kubelet refuses all pods for %s", patience)
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	if err := c.clear(t.Context()); err != nil {
		t.Error(err)
	}
	return int(c.since.Load())
}

// hold returns when no pod comes and goes any more.
func (c *stream) hold(t *testing.T) {
	t.Helper()
	c.turn <- struct{}{}
	if err := c.clear(t.Context()); err != nil {
		t.Error(err)
	}
}

func (c *stream) resume() { <-c.turn }

// clear deletes what is left of its pods, and waits until they are gone.
func (c *stream) clear(ctx context.Context) error {
	mine := metav1.ListOptions{LabelSelector: "app=stream"}
	return poll(ctx, func(ctx context.Context) error {
		if err := client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, mine); err != nil {
			return err
		}
		left, err := client.CoreV1().Pods(namespace).List(ctx, mine)
		if err == nil && len(left.Items) > 0 {
			err = errors.New("pods that come and go are left")
		}
		return err
	})
}

func (c *stream) summary() string {
	return fmt.Sprintf("%d pods came and ran, %d others were refused and made again; %d of all were delayed; without a fault they take up to %s",
		c.ran.Load(), c.refused.Load(), c.delayed.Load(), seconds(c.normal))
}
