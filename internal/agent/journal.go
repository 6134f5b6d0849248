package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/viaduct-sriov/viaduct/internal/agent/watch"
	"github.com/viaduct-sriov/viaduct/internal/delegate"
	"github.com/viaduct-sriov/viaduct/internal/journal"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A StatusWriter follows the stub's journal and publishes the network-status that no report has: of pods with the default
// network alone, and of those whose report failed.
type StatusWriter struct {
	Dir       string // the stub's records
	Publisher *Publisher
	Log       *slog.Logger
	// Settle and Period replace, if not 0, how long a record rests before it is looked at, so that its report comes first
	// (3 s), and how often all are looked at (1 min).
	Settle, Period time.Duration

	mu     sync.Mutex
	newest map[network.Pod]sandbox

	said       map[string]string // of each record, what is wrong with it
	reason     metav1.StatusReason
	reasonSaid time.Time
}

// A sandbox is one record of a pod. While an old one waits for its DEL, a pod has several; the newest speaks for it.
type sandbox struct {
	key     string
	written time.Time
}

// Run follows the folder until ctx ends.
func (w *StatusWriter) Run(ctx context.Context) error {
	w.Dir = filepath.Clean(w.Dir) // as events name it
	w.newest, w.said = map[network.Pod]sandbox{}, map[string]string{}
	if w.Settle == 0 {
		w.Settle = reportBudget + time.Second
	}
	if w.Period == 0 {
		w.Period = time.Minute
	}
	watcher := &watch.Folders{Log: w.Log}
	defer watcher.Close()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](500*time.Millisecond, time.Minute))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer queue.ShutDown()
	wg.Go(func() { w.work(ctx, queue) })

	period := time.NewTicker(w.Period)
	defer period.Stop()
	w.watchAndScan(watcher, queue)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watcher.Events():
			if e.Name == w.Dir { // the node's first pod has it made
				w.watchAndScan(watcher, queue)
			} else if key, ok := strings.CutSuffix(filepath.Base(e.Name), ".json"); ok && journal.CheckKey(key) == nil {
				queue.AddAfter(key, w.Settle)
			}
		case err := <-watcher.Errors(): // an overflow
			w.Log.Warn("Missed changes of the journal; looking at all of it", "err", err)
			w.watchAndScan(watcher, queue)
		case <-period.C:
			w.watchAndScan(watcher, queue)
		}
	}
}

func (w *StatusWriter) watchAndScan(watcher *watch.Folders, queue workqueue.TypedRateLimitingInterface[string]) {
	watcher.Add(filepath.Dir(w.Dir), w.Dir)
	keys, err := delegate.Records(w.Dir).Keys()
	if err != nil {
		w.Log.Warn("Cannot read the journal", "err", err)
	}
	for _, key := range append(keys, w.known()...) { // the end of some of these may have been missed
		queue.AddAfter(key, w.Settle)
	}
}

func (w *StatusWriter) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		key, down := queue.Get()
		if down {
			return
		}
		early, err := w.publish(ctx, key)
		if ctx.Err() == nil {
			w.say(key, err)
		}
		if errors.Is(err, ErrAPI) && ctx.Err() == nil {
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		if early > 0 {
			queue.AddAfter(key, early)
		}
		queue.Done(key)
	}
}

// say logs what keeps a status from being published: what is wrong with one record once, and what the API server answers to many
// once a minute.
func (w *StatusWriter) say(key string, err error) {
	switch {
	case err == nil:
		delete(w.said, key)
	case errors.Is(err, errNotSynced):
	case errors.Is(err, ErrAPI):
		if reason := apierrors.ReasonForError(err); reason != w.reason || time.Since(w.reasonSaid) > time.Minute {
			w.reason, w.reasonSaid = reason, time.Now()
			w.Log.Warn("Cannot publish network-status, trying again; others may fail, too", "container", key, "err", err)
		}
	case w.said[key] != err.Error():
		w.said[key] = err.Error()
		w.Log.Warn("Cannot publish network-status", "container", key, "err", err)
	}
}

// errNotSynced is an ErrAPI: without the pods, one cannot see which of them lack a status.
var errNotSynced = fmt.Errorf("%w: this node's pods are not known yet", ErrAPI)

// publish publishes the status of one container; early is how long it is yet the stub's to do so.
func (w *StatusWriter) publish(ctx context.Context, key string) (early time.Duration, err error) {
	record, written, err := w.read(key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, journal.ErrNotExist) {
		w.forget(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if record.Phase != delegate.Added || !w.isNewest(record.Pod, sandbox{key, written}) {
		return 0, nil
	}
	if early = w.Settle - time.Since(written); early > 0 && early <= w.Settle { // else the clock was set
		return early, nil
	}
	if !w.Publisher.Kube.pods.HasSynced() {
		return 0, errNotSynced
	}
	if w.Publisher.Kube.cachedPod(record.Pod) == nil {
		return 0, nil // gone; or so new that the next look comes soon enough
	}
	status, err := record.NetworkStatus()
	if err != nil {
		return 0, fmt.Errorf("make network-status of container %s: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = w.Publisher.Publish(ctx, record.Pod, status)
	if errors.Is(err, ErrReplaced) {
		w.Log.Debug("No network-status for a pod that is no more", "container", key, "err", err)
		return 0, nil
	}
	return 0, err
}

func (w *StatusWriter) read(key string) (r *delegate.Record, written time.Time, err error) {
	info, err := os.Stat(filepath.Join(w.Dir, key+".json"))
	if err != nil {
		return nil, written, fmt.Errorf("look at record %s: %w", key, err)
	}
	r, err = delegate.Read(delegate.Records(w.Dir), key)
	return r, info.ModTime(), err
}

func (w *StatusWriter) isNewest(pod network.Pod, s sandbox) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other, ok := w.newest[pod]; ok && other.key != s.key && other.written.After(s.written) {
		return false
	}
	w.newest[pod] = s
	return true
}

// known are the records that speak for a pod.
func (w *StatusWriter) known() (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.newest {
		keys = append(keys, s.key)
	}
	return keys
}

func (w *StatusWriter) forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for pod, s := range w.newest {
		if s.key == key {
			delete(w.newest, pod)
		}
	}
}
