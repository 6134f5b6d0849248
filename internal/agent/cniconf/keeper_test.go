package cniconf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A keep is a running Keeper in folders of its own.
type keep struct {
	*Keeper
	stop func()
}

func start(t *testing.T) *keep {
	t.Helper()
	dir := t.TempDir()
	k := &keep{Keeper: &Keeper{
		ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Log: slog.New(slog.DiscardHandler),
		Settle: 10 * time.Millisecond, Period: 100 * time.Millisecond,
	}}
	if err := errors.Join(os.Mkdir(k.ConfDir, 0o755), os.Mkdir(k.BinDir, 0o755)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	k.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(k.stop)
	return k
}

func (k *keep) install(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.BinDir, Plugin), nil, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (k *keep) want(t *testing.T, what string) {
	t.Helper()
	var data []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		data, _ = os.ReadFile(filepath.Join(k.ConfDir, FileName))
		if strings.Contains(string(data), what) {
			return
		}
	}
	t.Fatalf("after 20 s, %s does not hold %q but %q; %v", FileName, what, data, k.Err())
}

func (k *keep) wantErr(t *testing.T, want error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if errors.Is(k.Err(), want) {
			return
		}
	}
	t.Fatalf("got %v, want %v", k.Err(), want)
}

func TestKeeperWaits(t *testing.T) {
	k := start(t)
	k.wantErr(t, ErrNoPlugin)
	put(t, k.ConfDir, "10-flannel.conflist", flannel)
	k.wantErr(t, ErrNoPlugin)
	k.install(t)
	k.want(t, `"cbr0"`)
	k.wantErr(t, nil)
	if err := os.Remove(filepath.Join(k.ConfDir, "10-flannel.conflist")); err != nil {
		t.Fatal(err)
	}
	k.wantErr(t, ErrNoDefault)
	k.want(t, `"cbr0"`) // what was there goes on
}

func TestKeeperFollowsAndPutsBack(t *testing.T) {
	k := start(t)
	k.install(t)
	put(t, k.ConfDir, "10-flannel.conflist", flannel)
	k.want(t, `"cbr0"`)
	own := filepath.Join(k.ConfDir, FileName)
	steps := []struct {
		name string
		do   func() error
		want string
	}{
		{"the default network changes", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "10-flannel.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "cbr1")), 0o600)
		}, `"cbr1"`},
		{"the default network breaks", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "10-flannel.conflist"), []byte(`{"name"`), 0o600)
		}, `"cbr1"`},
		{"it is whole again", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "10-flannel.conflist"), []byte(flannel), 0o600)
		}, `"cbr0"`},
		{"another network comes first", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "05-cilium.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "cilium")), 0o600)
		}, `"cilium"`},
		{"ours is removed", func() error { return os.Remove(own) }, `"cilium"`},
		{"ours is renamed", func() error { return os.Rename(own, own+".cilium_bak") }, `"cilium"`},
		{"ours is overwritten", func() error { return os.WriteFile(own, []byte(`{}`), 0o600) }, `"cilium"`},
		{"the folder is made anew", func() error {
			return errors.Join(os.Rename(k.ConfDir, k.ConfDir+".old"), os.Mkdir(k.ConfDir, 0o755),
				os.WriteFile(filepath.Join(k.ConfDir, "10-new.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "new")), 0o600))
		}, `"new"`},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		k.want(t, step.want)
		if t.Failed() {
			t.Fatal(step.name)
		}
	}
	k.stop()
	if _, err := os.Stat(own); err != nil {
		t.Errorf("a stopped keeper leaves the file: %v", err)
	}
}

// Install, upgrade, rollback, uninstall: what "vfctl node" does to both folders, and what others' files come to meanwhile.
func TestKeeperAcrossReleases(t *testing.T) {
	k := &keep{Keeper: &Keeper{ConfDir: t.TempDir(), BinDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	put(t, k.ConfDir, "10-flannel.conflist", flannel)
	own, plugin := filepath.Join(k.ConfDir, FileName), filepath.Join(k.BinDir, Plugin)
	otherRelease := strings.ReplaceAll(flannel, "cbr0", "of another release")
	for _, step := range []struct {
		name  string
		do    func() error
		want  string // in our file
		write bool   // it had to be written
	}{
		{"install", func() error { k.install(t); return nil }, `"cbr0"`, true},
		{"the plugin is replaced by rename", func() error {
			return errors.Join(os.WriteFile(plugin+".new", []byte("v2"), 0o755), os.Rename(plugin+".new", plugin))
		}, `"cbr0"`, false},
		{"a file of another release is in place", func() error { return os.WriteFile(own, []byte(otherRelease), 0o600) }, `"cbr0"`, true},
		{"and back", func() error {
			return errors.Join(os.WriteFile(plugin+".new", []byte("v1"), 0o755), os.Rename(plugin+".new", plugin))
		}, `"cbr0"`, false},
		{"the default network is upgraded in place", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "10-flannel.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "cbr2")), 0o600)
		}, `"cbr2"`, true},
		{"it is renamed", func() error {
			return os.Rename(filepath.Join(k.ConfDir, "10-flannel.conflist"), filepath.Join(k.ConfDir, "11-flannel.conflist"))
		}, `"cbr2"`, false},
		{"another component sets it and ours aside", func() error {
			return errors.Join(os.WriteFile(filepath.Join(k.ConfDir, "05-cilium.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "cilium")), 0o600),
				os.Rename(filepath.Join(k.ConfDir, "11-flannel.conflist"), filepath.Join(k.ConfDir, "11-flannel.conflist.cilium_bak")),
				os.Rename(own, own+".cilium_bak"))
		}, `"cilium"`, true},
	} {
		before := k.Writes()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		k.Reconcile()
		data, err := os.ReadFile(own)
		if wrote := k.Writes() > before; err != nil || wrote != step.write || !strings.Contains(string(data), step.want) || k.Err() != nil {
			t.Errorf("%s: written: %v, want %v; it holds %s; %v %v", step.name, wrote, step.write, data, err, k.Err())
		}
	}
	// Uninstalled: nobody puts our file back.
	before := k.Writes()
	if err := errors.Join(os.Remove(plugin), os.Remove(own)); err != nil {
		t.Fatal(err)
	}
	k.Reconcile()
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) || k.Writes() != before || !errors.Is(k.Err(), ErrNoPlugin) {
		t.Errorf("after it was uninstalled: %v, %d writes, %v", err, k.Writes()-before, k.Err())
	}
}

func TestKeeperSeesWhatComesFirst(t *testing.T) {
	k := start(t)
	k.install(t)
	put(t, k.ConfDir, "00-other.conflist", flannel)
	k.want(t, `"cbr0"`)
	for deadline := time.Now().Add(20 * time.Second); k.Err() == nil || !strings.Contains(k.Err().Error(), "00-other.conflist"); {
		if time.Now().After(deadline) {
			t.Fatalf("got %v", k.Err())
		}
	}
}

func TestKeeperWithADefaultOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	k := Keeper{ConfDir: dir, BinDir: dir, Log: slog.New(slog.DiscardHandler), ReadyFile: filepath.Join(dir, "ready")}
	missing := errors.New("there is none")
	k.Default = func() (Default, error) { return Default{File: "cluster", List: json.RawMessage(flannel)}, missing }
	if err := os.WriteFile(filepath.Join(dir, Plugin), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "10-other.conflist", strings.ReplaceAll(flannel, "cbr0", "other"))
	for _, step := range []struct {
		before func()
		want   error
	}{
		{func() {}, ErrNotReady},
		{func() { put(t, dir, "ready", "") }, ErrNoDefault},
		{func() { missing = nil }, nil},
	} {
		step.before()
		if k.Reconcile(); !errors.Is(k.Err(), step.want) {
			t.Fatalf("got %v, want %v", k.Err(), step.want)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, FileName)); err != nil || !strings.Contains(string(data), "cbr0") {
		t.Errorf("got %s, %v", data, err)
	}
}

// What is right stays untouched: no write, so nothing for a runtime to read again.
func TestReconcileIsIdle(t *testing.T) {
	dir := t.TempDir()
	k := &Keeper{ConfDir: dir, BinDir: dir, Log: slog.New(slog.DiscardHandler)}
	put(t, dir, "10-flannel.conflist", flannel)
	if err := os.WriteFile(filepath.Join(dir, Plugin), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(k.Err(), ErrNotLooked) { // else the agent is ready, and the node's pods lack their networks
		t.Errorf("before the first look: %v", k.Err())
	}
	for range 3 {
		k.Reconcile()
	}
	if k.Writes() != 1 || k.Err() != nil {
		t.Errorf("%d writes, %v; want one", k.Writes(), k.Err())
	}
}

// Another project's installer that runs on is told of, once, and its file is left as it is.
func TestPluginsPutOverOurs(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	k := &Keeper{ConfDir: dir, BinDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}
	put(t, dir, "10-flannel.conflist", flannel)
	put(t, dir, Plugin, "")
	if err := os.Chmod(filepath.Join(dir, Plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "sriov", "theirs")
	k.Reconcile()
	if strings.Contains(log.String(), "Another project") {
		t.Errorf("a plugin that was never ours: %s", &log)
	}
	put(t, dir, "sriov.viaduct-saved", "theirs")
	for range 2 {
		k.Reconcile()
	}
	if n := strings.Count(log.String(), "Another project has put its plugin over ours"); n != 1 || !strings.Contains(log.String(), filepath.Join(dir, "sriov")) {
		t.Errorf("said %d times: %s", n, &log)
	}
	if got := k.Overwritten(); !slices.Equal(got, []string{filepath.Join(dir, "sriov")}) {
		t.Errorf("overwritten: %v", got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "sriov")); err != nil || string(data) != "theirs" || k.Err() != nil {
		t.Errorf("%q, %v, %v", data, err, k.Err())
	}
}

// Where no plugin of another project was before ours, none is saved: the keeper has seen ours.
func TestPluginPutOverOursThatWasFirst(t *testing.T) {
	dir := t.TempDir()
	k := &Keeper{ConfDir: dir, BinDir: dir, Log: slog.New(slog.DiscardHandler)}
	self, err := os.Executable() // as ours as a plugin
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sriov")
	for _, step := range []struct {
		do   func() error
		want []string
	}{
		{func() error { return os.Symlink(self, path) }, nil},
		{func() error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("theirs"), 0o755)) }, []string{path}},
		{func() error { return os.Remove(path) }, nil},
		{func() error { return os.WriteFile(path, []byte("theirs"), 0o755) }, nil}, // ours was taken off before
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		k.Reconcile()
		if got := k.Overwritten(); !slices.Equal(got, step.want) {
			t.Errorf("overwritten: %v, want %v", got, step.want)
		}
	}
}

// Whoever takes our file away, as Cilium does by default as soon as it sees it, is counted, each time, and told of: pods that start
// meanwhile have the default network alone, and nothing else says so. What we write for other reasons is not counted.
func TestKeeperCountsWhoTakesOurFileAway(t *testing.T) {
	var log bytes.Buffer
	k := &keep{Keeper: &Keeper{ConfDir: t.TempDir(), BinDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))}}
	own := filepath.Join(k.ConfDir, FileName)
	k.install(t)
	put(t, k.ConfDir, "10-flannel.conflist", flannel)
	put(t, k.ConfDir, FileName, "of another release")
	for _, step := range []struct {
		name string
		do   func() error
		want int
	}{
		{"the first look", func() error { return nil }, 0},
		{"the default network changes", func() error {
			return os.WriteFile(filepath.Join(k.ConfDir, "10-flannel.conflist"), []byte(strings.ReplaceAll(flannel, "cbr0", "cbr1")), 0o600)
		}, 0},
		{"ours is renamed", func() error { return os.Rename(own, own+".cilium_bak") }, 1},
		{"and again", func() error { return os.Rename(own, own+".cilium_bak") }, 2},
		{"nothing", func() error { return nil }, 2},
		{"ours is changed", func() error { return os.WriteFile(own, []byte("{}"), 0o600) }, 3},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		k.Reconcile()
		if said := strings.Count(log.String(), "cni.exclusive=false"); k.Restored() != step.want || said != step.want || k.Err() != nil {
			t.Errorf("%s: counted %d, said %d, want %d; %v", step.name, k.Restored(), said, step.want, k.Err())
		}
	}
}

// While the default network's file is broken, pods must not start in whatever other network comes next.
func TestKeeperPassesNoDefaultOver(t *testing.T) {
	k := &keep{Keeper: &Keeper{ConfDir: t.TempDir(), BinDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	k.install(t)
	cluster := filepath.Join(k.ConfDir, "10-flannel.conflist")
	put(t, k.ConfDir, "10-flannel.conflist", flannel)
	put(t, k.ConfDir, "87-podman.conflist", strings.ReplaceAll(flannel, "cbr0", "podman"))
	for _, step := range []struct {
		name string
		do   func() error
		want error
		has  string
	}{
		{"whole", func() error { return nil }, nil, "cbr0"},
		{"broken", func() error { return os.WriteFile(cluster, []byte(`{"name"`), 0o600) }, ErrNoDefault, "cbr0"},
		{"still", func() error { return nil }, ErrNoDefault, "cbr0"},
		{"agent restarted", func() error {
			k.Keeper = &Keeper{ConfDir: k.ConfDir, BinDir: k.BinDir, Log: k.Log}
			return nil
		}, ErrNoDefault, "cbr0"},
		{"whole again", func() error { return os.WriteFile(cluster, []byte(strings.ReplaceAll(flannel, "cbr0", "cbr1")), 0o600) }, nil, "cbr1"},
		{"gone", func() error { return os.Remove(cluster) }, nil, "podman"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		k.Reconcile()
		data, err := os.ReadFile(filepath.Join(k.ConfDir, FileName))
		if err != nil || !errors.Is(k.Err(), step.want) || !strings.Contains(string(data), `"`+step.has+`"`) {
			t.Fatalf("%s: got %v, want %v; the file, %v: %s", step.name, k.Err(), step.want, err, data)
		}
	}
}

// Our file is put back while nobody can say what it should be.
func TestKeeperPutsBackWhatItKnows(t *testing.T) {
	var gone error
	k := &keep{Keeper: &Keeper{
		ConfDir: t.TempDir(), BinDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Default: func() (Default, error) { return Default{File: "cluster", List: json.RawMessage(flannel)}, gone },
	}}
	k.install(t)
	k.Reconcile()
	gone = errors.New("the API server is away")
	if err := os.Remove(filepath.Join(k.ConfDir, FileName)); err != nil {
		t.Fatal(err)
	}
	k.Reconcile()
	data, err := os.ReadFile(filepath.Join(k.ConfDir, FileName))
	if err != nil || !strings.Contains(string(data), "cbr0") || !errors.Is(k.Err(), gone) || k.Restored() != 1 {
		t.Errorf("the file: %s, %v; the keeper says %v, restored %d", data, err, k.Err(), k.Restored())
	}
}
