package delegate

import (
	"context"
	"errors"

	"github.com/viaduct-sriov/viaduct/internal/journal"
)

// A Sandboxed is a record as an operator sees it.
type Sandboxed struct {
	Key    string
	Record *Record // nil: it cannot be read
	Err    error   // why
	Alive  bool    // its network namespace is there
}

// List reads every record, in order of the keys.
func (r *Runner) List() ([]Sandboxed, error) {
	keys, err := r.Records.Keys()
	if err != nil {
		return nil, err
	}
	all := make([]Sandboxed, 0, len(keys))
	for _, key := range keys {
		switch rec, err := Read(r.Records, key); {
		case errors.Is(err, journal.ErrNotExist): // its DEL came first
		case err != nil:
			all = append(all, Sandboxed{Key: key, Err: err})
		default:
			all = append(all, Sandboxed{Key: key, Record: rec, Alive: rec.alive()})
		}
	}
	return all, nil
}

// CollectDead tears down one sandbox if its network namespace is gone, and reports whether nothing of it is left. One that
// another call works on is left to that.
func (r *Runner) CollectDead(ctx context.Context, key string) (gone bool, err error) {
	rec, err := r.collect(ctx, key, (*Record).dead)
	return rec == nil && err == nil, err
}
