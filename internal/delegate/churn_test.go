package delegate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// churnPods is how many pods TestChurn starts and ends; VIADUCT_PODS replaces it.
const churnPods = 1000

// idle is a plugin that starts fast: ADD makes a file in a folder, which must not be there, and DEL removes it.
const idle = `#!/bin/sh
read -r _
did=%s/$CNI_CONTAINERID-$CNI_IFNAME
case $CNI_COMMAND in
ADD) set -C; : >"$did" && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}]}' ;;
DEL) rm -f "$did" ;;
esac
`

// load is what one process has in use.
type load struct{ goroutines, files, heap int }

func measure(t *testing.T) load {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return load{runtime.NumGoroutine(), len(files), int(m.HeapAlloc)}
}

// Pods come and go, eight at a time, every fourth with two networks: none fails, nothing is left, nothing grows.
func TestChurn(t *testing.T) {
	pods := churnPods
	if s := os.Getenv("VIADUCT_PODS"); s != "" {
		var err error
		if pods, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t)
	n.Path = filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(n.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Path, "idle"), fmt.Appendf(nil, idle, n.effects), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := func(name string) []byte {
		return []byte(fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"idle"}]}`, name))
	}
	def := network.Attachment{Name: "pods", Config: conf("pods"), IsDefault: true}
	plan := func(i int) []network.Attachment {
		if i%4 != 0 {
			return []network.Attachment{def}
		}
		return []network.Attachment{def, {Name: "shop/one", IfName: "net1", Config: conf("one")}}
	}
	life := func(i int) error {
		sb := n.sandbox(fmt.Sprintf("c%d", i))
		if _, err := n.Add(t.Context(), sb, planned(plan(i))); err != nil {
			return fmt.Errorf("pod %d: %w", i, err)
		}
		n.Sweep(t.Context())
		if err := n.Del(t.Context(), sb, def); err != nil {
			return fmt.Errorf("pod %d: %w", i, err)
		}
		return nil
	}
	churn(t, 0, pods/10, life)
	before := measure(t)
	churn(t, pods/10, pods, life)
	after := measure(t)
	t.Logf("after %d pods %+v, after %d pods %+v", pods/10, before, pods, after)
	if after.goroutines > before.goroutines || after.files > before.files || after.heap > before.heap+1<<20 {
		t.Errorf("from %+v to %+v", before, after)
	}
	if err := os.RemoveAll(filepath.Join(n.Running.Dir, "sweep")); err != nil {
		t.Fatal(err)
	}
	if left := n.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// churn runs life for each number from from up to to, by eight workers.
func churn(t *testing.T, from, to int, life func(int) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				if err := life(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := from; i < to && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}
