//go:build lab

package sriov_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

var cycles = flag.Int("cycles", 48, "how many pods come and go in TestWorkers")

// Eight workers attach pods to all the VFs there are, as fast as they can, each to the next VF that is free: no failure,
// nothing left, and no file more after many pods than after a few.
func TestWorkers(t *testing.T) {
	const workers = 8
	n := newNode(t)
	before := map[pci.Address]state{}
	free := make(chan *pci.Device, len(n.vfs))
	for _, d := range n.vfs {
		before[d.Address] = n.state(d)
		free <- d
	}
	if len(n.vfs) < workers {
		t.Fatalf("%d VFs for %d workers", len(n.vfs), workers)
	}
	start, failed := filesIn(t), atomic.Bool{}
	var last atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := last.Add(1); i <= int64(*cycles) && !failed.Load(); i = last.Add(1) {
				d := <-free
				if log, err := cycle(n, d, int(i)); err != nil {
					failed.Store(true)
					t.Errorf("pod %d on VF %s: %v\n%s", i, d.Address, err, log)
				}
				free <- d
			}
		})
	}
	group.Wait()
	for _, d := range n.vfs {
		if err := n.leftovers(d, before[d.Address]); err != nil {
			t.Errorf("VF %s: %v", d.Address, err)
		}
	}
	if diff := cmp.Diff(start, filesIn(t)); diff != "" {
		t.Errorf("files: %s", diff)
	}
	t.Logf("%d pods", min(*cycles, int(last.Load())))
}

// cycle is one pod's life; every third namespace dies before its DEL.
func cycle(n *node, d *pci.Device, i int) (log []byte, err error) {
	var b bytes.Buffer
	p := &pod{node: n, id: fmt.Sprintf("worker-%d", i), ns: fmt.Sprintf("worker%d", i)}
	if out, err := ipCommand("netns", "add", p.ns).CombinedOutput(); err != nil {
		return out, err
	}
	defer p.gone()
	c := p.conf(d, full())
	c["mac"] = fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8&0xff, i&0xff)
	c["ipam"] = conf{"type": "test-ipam", "addresses": []string{fmt.Sprintf("10.8.%d.%d/16", i>>8&0xff, i&0xff)}}
	if _, err := p.call("ADD", c).try(n.Context(), &b); err != nil {
		return b.Bytes(), err
	}
	if i%3 == 0 {
		p.gone()
	}
	_, err = p.call("DEL", c).try(n.Context(), &b)
	return b.Bytes(), err
}

// filesIn lists what is in the folders that grow if anything grows, but for the two files that each VF has there once it
// had a pod.
func filesIn(t *testing.T) map[string]bool {
	t.Helper()
	files := map[string]bool{}
	for _, dir := range []string{records, leases, "/run/netns"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			key := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".lock")
			if _, err := pci.ParseAddress(key); err != nil {
				files[filepath.Join(dir, e.Name())] = true
			}
		}
	}
	return files
}
