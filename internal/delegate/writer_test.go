package delegate

import (
	"errors"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// Nothing is put behind a record, and so no plugin of another network begins, before that is on the disk.
func TestWriterWaitsForTheDisk(t *testing.T) {
	n := newNode(t)
	rec, _, err := newRecord(n.sandbox("c1"), Netns{Path: n.netns}, n.attachments(network.Attachment{Name: "shop/one", Config: n.chain("one", "1.0.0", "rec-b")}))
	if err != nil {
		t.Fatal(err)
	}
	w := writer{store: n.Records, rec: rec}
	if err := w.write(); err != nil || w.wait() != nil {
		t.Fatal(err)
	}
	for _, disk := range []error{nil, errors.New("the disk is gone")} {
		w.synced = make(chan error, 1) // as if it had not ended
		done := make(chan error, 1)
		go func() { done <- w.write() }()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		w.synced <- disk
		if err := <-done; !errors.Is(err, disk) {
			t.Errorf("got %v, want %v", err, disk)
		}
	}
}
