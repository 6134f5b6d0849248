package delegate

import "github.com/viaduct-sriov/viaduct/internal/journal"

// A writer writes an ADD's record as it advances, and makes it durable as the head of this package says.
type writer struct {
	store  journal.Store
	rec    *Record
	begun  bool
	synced chan error // what became of syncing the first record; nil: it was not begun
}

// write puts the record on file as it is now.
func (w *writer) write() error {
	if w.begun {
		if err := w.wait(); err != nil {
			return err
		}
		return w.store.Advance(w.rec.ContainerID, w.rec)
	}
	w.begun = true
	visible := w.store
	visible.Durable = false
	if err := visible.Write(w.rec.ContainerID, w.rec); err != nil || !w.rec.outlivesBoot() {
		return err
	}
	w.synced = make(chan error, 1)
	go func() { w.synced <- w.store.Sync(w.rec.ContainerID) }()
	if w.rec.Attachments[0].nodesOwn() {
		return nil // it may start: DEL finds it without a record
	}
	return w.wait()
}

// wait returns when nobody works on the record any more.
func (w *writer) wait() error {
	if w.synced == nil {
		return nil
	}
	err := <-w.synced
	w.synced <- err // for whoever waits next
	return err
}
