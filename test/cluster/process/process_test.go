package process

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

var errNotYet = errors.New("not yet")

func newGroup(t *testing.T) *Group {
	t.Helper()
	g, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	return g
}

func TestAwaitTellsOfADeath(t *testing.T) {
	g := newGroup(t)
	if err := g.Start("etcd", "sh", "-c", "echo no space left on the disk; exit 3"); err != nil {
		t.Fatal(err)
	}
	err := g.Await(t.Context(), "etcd", time.Minute, func(context.Context) error { return errNotYet })
	for _, want := range []string{"etcd ended by itself", "exit status 3", "no space left on the disk"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
	}
}

func TestAwaitEndsAtItsLimit(t *testing.T) {
	g := newGroup(t)
	err := g.Await(t.Context(), "nothing", time.Millisecond, func(context.Context) error { return errNotYet })
	if !errors.Is(err, errNotYet) {
		t.Errorf("error %v, want what it waited for in it", err)
	}
}

func TestStopIsNoDeath(t *testing.T) {
	g := newGroup(t)
	if err := g.Start("sleep", "sleep", "600"); err != nil {
		t.Fatal(err)
	}
	g.Stop()
	select {
	case err := <-g.Died():
		t.Errorf("reported as a death: %v", err)
	default:
	}
}

// TestKept kills a daemon as a test of the kubelet's restart does.
func TestKept(t *testing.T) {
	g := newGroup(t)
	if err := g.StartKept("kubelet", "sh", "-c", "echo start; exit 1"); err != nil {
		t.Fatal(err)
	}
	err := g.Await(t.Context(), "a second start", time.Minute, func(context.Context) error {
		out, err := os.ReadFile(g.LogFile("kubelet"))
		if strings.Count(string(out), "start") < 2 {
			return errors.Join(err, errNotYet)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
