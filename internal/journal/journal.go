// Package journal keeps crash-safe records, one file per key in one folder, and locks.
//
// It knows how a record survives a crash, and nothing of what is in it. A writer opens a record with its intent before
// it changes anything, advances it as it goes, and removes it when everything the record speaks of is done or undone.
// Whatever is killed in between leaves a record that says what may have happened.
//
// On disk, below Store.Dir (mode 0700):
//
//	<key>.json       mode 0600; {"version":1,"record":{…}}, always whole: written as a temporary file, then renamed. Newer ones,
//	                 which replace it, may stand behind it; the last of these may be torn
//	.<key>.tmp       the temporary file; its name is fixed, so a killed writer leaves one at most
//	<key>.lock       empty; held with flock(2), never renamed, removed only by its holder; it may be in another store's folder
//	<key>.corrupt-N  a record that could not be read, for a person to look at: see SetAside and Preserve
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a read or a lock can answer besides success; test with errors.Is.
var (
	// ErrNotExist means that there is no record for the key.
	ErrNotExist = errors.New("no such record")
	// ErrCorrupt means that the file is there but is no record: truncated, not JSON, or of another shape.
	ErrCorrupt = errors.New("corrupt record")
	// ErrEmpty means that the file has no bytes: all that a power cut leaves of a record that was never synced. Nothing else
	// does, as every record is renamed to its place when it is whole. It is an ErrCorrupt, too.
	ErrEmpty = errors.New("it is empty")
	// ErrTorn means that the record is followed by what is no record, or a part of a newer one. The record itself has been read.
	// It is an ErrCorrupt, too, for those who never call Advance.
	ErrTorn = errors.New("what follows the record was not written to its end")
	// ErrVersion means that another version of this program wrote the record. It is refused, not guessed.
	ErrVersion = errors.New("record of an unknown version")
	// ErrKey means that the key cannot be a file name.
	ErrKey = errors.New("invalid record key")
)

// maxRecord bounds what a read takes into memory. The largest honest record, a pod with 32 attachments, has some 200 KB.
const maxRecord = 8 << 20

const maxKey = 200

// A Store is one folder of records. The zero Version is invalid.
type Store struct {
	// Dir holds the records. It is made, mode 0700, by the first Write or Lock.
	Dir string
	// Version is the format version that Write puts into each record and the only one that Read takes.
	Version int
	// Durable makes Write fsync the file and the folder. Without it a record survives a killed process, not a power cut:
	// right for /run, which dies with the boot.
	Durable bool
}

type envelope struct {
	Version int             `json:"version"`
	Record  json.RawMessage `json:"record"`
}

// CheckKey reports whether key can name a record: letters, digits and "_.:-", starting with a letter or digit, at most
// 200 bytes, and none of this package's own suffixes. The error wraps ErrKey.
func CheckKey(key string) error {
	if !isKey(key) || strings.HasSuffix(key, ".json") || strings.HasSuffix(key, ".lock") {
		return fmt.Errorf("%w %q: want letters, digits and _.:- only, 200 at most, starting with a letter or digit", ErrKey, key)
	}
	return nil
}

// isKey is no regular expression: compiling one costs every start of a CNI plugin more than all else that it does before
// its work.
func isKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	for i, c := range []byte(key) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.:-", rune(c))) {
			return false
		}
	}
	return true
}

func (s Store) path(key string) string { return filepath.Join(s.Dir, key+".json") }
func (s Store) temp(key string) string { return filepath.Join(s.Dir, "."+key+".tmp") }

// Read decodes the record of key into v. Errors wrap ErrNotExist, ErrCorrupt, ErrVersion, ErrKey, or are the file
// system's own. One that wraps ErrTorn comes with a record in v.
func (s Store) Read(key string, v any) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	path := s.path(key)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotExist, path)
	}
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if info.Size() > maxRecord {
		return fmt.Errorf("%w %s: %d bytes, more than %d", ErrCorrupt, path, info.Size(), maxRecord)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotExist, path)
	}
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	return s.Parse(path, data, v)
}

// Parse decodes the contents of a record's file into v; path is for the error, which wraps ErrCorrupt, ErrVersion, or ErrTorn.
func (s Store) Parse(path string, data []byte, v any) error {
	if len(data) == 0 {
		return fmt.Errorf("%w %s: %w", ErrCorrupt, path, ErrEmpty)
	}
	all, torn, err := Split(data)
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrCorrupt, path, err)
	}
	var env envelope // the last; but none of these may be of another version
	for i, one := range all {
		var next envelope
		err := json.Unmarshal(one, &next)
		none := len(next.Record) == 0 || string(next.Record) == "null"
		switch {
		case err == nil && next.Version != s.Version && (i == 0 || next.Version > 0):
			return fmt.Errorf("%w %s: it says %d, this program reads %d", ErrVersion, path, next.Version, s.Version)
		case i > 0 && (err != nil || none || next.Version == 0):
			torn = true // it is no record
			continue
		case err != nil:
			return fmt.Errorf("%w %s: %w", ErrCorrupt, path, err)
		case none:
			return fmt.Errorf("%w %s: it holds no record", ErrCorrupt, path)
		}
		env = next
	}
	if err := json.Unmarshal(env.Record, v); err != nil {
		return fmt.Errorf("%w %s: %w", ErrCorrupt, path, err)
	}
	if torn {
		return fmt.Errorf("%w %s: %w", ErrCorrupt, path, ErrTorn)
	}
	return nil
}

// Split splits a record's file into the record, and the newer ones that Advance put behind it. torn says that something else
// follows: a part of one, as a kill leaves it, or what a power cut made of the blocks that were not synced. The error says that
// not even the first can be read.
func Split(data []byte) (all []json.RawMessage, torn bool, err error) {
	values := json.NewDecoder(bytes.NewReader(data))
	for {
		var one json.RawMessage
		switch err := values.Decode(&one); {
		case err == nil:
			all = append(all, one)
		case len(all) == 0:
			return nil, false, err
		default:
			return all, !errors.Is(err, io.EOF), nil
		}
	}
}

const maxAdvanced = 1 << 20

// Advance puts v behind the record of key, which must have been written by this process: v counts from then on. It is not
// synced. After a power cut the record may be the older one, and ErrTorn with it; but that, if it was durable, stays. A file that
// would grow beyond a megabyte is replaced, as by Write.
func (s Store) Advance(key string, v any) error {
	data, err := s.encode(key, v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path(key), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("advance record %s: %w", key, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size()+int64(len(data)) >= maxAdvanced {
		return errors.Join(f.Close(), s.Write(key, v))
	}
	if err == nil {
		_, err = f.Write(append([]byte{'\n'}, data...))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("advance record %s: %w", key, err)
	}
	return nil
}

// Sync makes the record of key, as it is now, durable: for one that was written without, so that something else can go on
// meanwhile. It is no error if there is none.
func (s Store) Sync(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	f, err := os.Open(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync record %s: %w", key, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync record %s: %w", key, err)
	}
	s.Durable = true
	return s.syncDir()
}

// encode is v as it stands in the record's file.
func (s Store) encode(key string, v any) ([]byte, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	data, err := json.Marshal(struct { // an envelope, in one pass
		Version int `json:"version"`
		Record  any `json:"record"`
	}{s.Version, v})
	if err != nil {
		return nil, fmt.Errorf("encode record %s: %w", key, err)
	}
	if len(data) > maxRecord { // nobody could read it again
		return nil, fmt.Errorf("write record %s: it would have %d bytes, %d at most", key, len(data), maxRecord)
	}
	return data, nil
}

// Write replaces the record of key by v, whole or not at all. Hold the key's lock: two writers share one temporary name.
func (s Store) Write(key string, v any) error {
	data, err := s.encode(key, v)
	if err != nil {
		return err
	}
	if err := s.makeDir(); err != nil {
		return err
	}
	temp := s.temp(key)
	if err := s.writeTemp(temp, data); err != nil {
		return errors.Join(fmt.Errorf("write record %s: %w", key, err), ignoreMissing(os.Remove(temp)))
	}
	if err := os.Rename(temp, s.path(key)); err != nil {
		return errors.Join(fmt.Errorf("write record %s: %w", key, err), ignoreMissing(os.Remove(temp)))
	}
	return s.syncDir()
}

func (s Store) writeTemp(temp string, data []byte) error {
	// O_NOFOLLOW: what a killed writer left is a plain file; anything else is not ours.
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && s.Durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Remove deletes the record of key and what a killed writer left beside it. It is no error if there is none. After a power
// cut the record may be there again: what it says is then undone once more, as after a kill just before the removal.
func (s Store) Remove(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	err := errors.Join(ignoreMissing(os.Remove(s.path(key))), ignoreMissing(os.Remove(s.temp(key))))
	if err != nil {
		return fmt.Errorf("remove record %s: %w", key, err)
	}
	return nil
}

// SetAside moves a record that cannot be read to <key>.corrupt-N, where no Read and no Keys sees it, and returns the new
// path. The first eight and the newest of each key are kept, and of all keys the newest MaxAside.
func (s Store) SetAside(key string) (string, error) {
	return s.aside(key, os.Rename)
}

// Preserve is SetAside for a record that the next Write replaces: it stays where it is, too, under both names. A writer
// killed between the two leaves a record that cannot be read, and not none.
func (s Store) Preserve(key string) (string, error) {
	return s.aside(key, func(from, to string) error {
		if err := ignoreMissing(os.Remove(to)); err != nil {
			return err
		}
		return os.Link(from, to)
	})
}

func (s Store) aside(key string, put func(from, to string) error) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	to := func(n int) string { return filepath.Join(s.Dir, fmt.Sprintf("%s.corrupt-%d", key, n)) }
	n := 1
	for ; n < 9; n++ {
		if _, err := os.Lstat(to(n)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err := put(s.path(key), to(n)); err != nil {
		return "", fmt.Errorf("set record %s aside: %w", key, err)
	}
	// Neither is worth a failure: the record is kept. A rename and a link leave the file's time, by which the oldest go.
	now := time.Now()
	_ = os.Chtimes(to(n), now, now)
	s.trimAside(to(n))
	return to(n), s.syncDir()
}

// MaxAside is how many records that were set aside a folder keeps. They are for a person, who reads a few; where each pod leaves one,
// they would fill the disk.
const MaxAside = 64

// trimAside removes the oldest of too many records that were set aside, but for the one that has just been.
func (s Store) trimAside(just string) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return
	}
	put := map[string]time.Time{}
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		if aside, _ := filepath.Match("*.corrupt-[1-9]", e.Name()); !aside || path == just {
			continue
		}
		if info, err := e.Info(); err == nil { // else another call has removed it
			put[path] = info.ModTime()
		}
	}
	oldest := slices.SortedFunc(maps.Keys(put), func(a, b string) int { return put[a].Compare(put[b]) })
	for _, path := range oldest[:max(0, len(oldest)+1-MaxAside)] {
		_ = os.Remove(path)
	}
}

// Age is how long ago the record of key was written; negative if the clock was set back. The error wraps ErrNotExist if there is
// none.
func (s Store) Age(key string) (time.Duration, error) {
	info, err := os.Lstat(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: %s", ErrNotExist, s.path(key))
	}
	if err != nil {
		return 0, fmt.Errorf("look at record %s: %w", key, err)
	}
	return time.Since(info.ModTime()), nil
}

// Keys lists the keys that have a record, sorted. A folder that does not exist has none.
func (s Store) Keys() ([]string, error) {
	return s.keys(func(file string) (string, bool) { return strings.CutSuffix(file, ".json") })
}

// Traces lists the keys that have a record, a lock's file or what a killed writer left, sorted. One without a record is somebody's
// who works just now, or who was killed before the first one.
func (s Store) Traces() ([]string, error) {
	return s.keys(func(file string) (string, bool) {
		if hidden, ok := strings.CutPrefix(file, "."); ok {
			return strings.CutSuffix(hidden, ".tmp")
		}
		key, ok := strings.CutSuffix(file, ".json")
		if !ok {
			key, ok = strings.CutSuffix(file, ".lock")
		}
		return key, ok
	})
}

// keys lists the keys that keyOf tells of the folder's files, each once, sorted.
func (s Store) keys(keyOf func(file string) (string, bool)) ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var keys []string
	for _, e := range entries {
		if key, ok := keyOf(e.Name()); ok && CheckKey(key) == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys) // ReadDir sorts names with their endings: "a-b.json" comes before "a.json"
	return slices.Compact(keys), nil
}

func (s Store) makeDir() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	return nil
}

func (s Store) syncDir() error {
	if !s.Durable {
		return nil
	}
	d, err := os.Open(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
