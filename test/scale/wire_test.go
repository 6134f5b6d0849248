//go:build scale

package scale

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A wire carries one agent's connections to the API server and counts their bytes: what TCP carries, so HTTP/2 in TLS, with
// handshakes and pings, without the headers of TCP and IP.
type wire struct {
	address               string
	up, down, connections atomic.Int64
}

// traffic is what went over a wire, to the API server and back.
type traffic struct{ up, down int64 }

func (w *wire) traffic() traffic { return traffic{w.up.Load(), w.down.Load()} }

func (t traffic) less(before traffic) traffic { return traffic{t.up - before.up, t.down - before.down} }

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			w.connections.Add(1)
			wg.Go(func() { w.carry(t, conn, server) })
		}
	})
	t.Cleanup(func() { // the agent has ended by now, and with it its connections
		_ = l.Close()
		wg.Wait()
	})
	return w
}

func (w *wire) carry(t *testing.T, agent net.Conn, server string) {
	api, err := (&net.Dialer{}).Dial("tcp", server)
	if err != nil {
		t.Errorf("reach the API server: %v", err)
		_ = agent.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { count(api, agent, &w.up) })
	both.Go(func() { count(agent, api, &w.down) })
	both.Wait()
}

// count copies until one side ends, and then ends the other.
func count(to, from net.Conn, n *atomic.Int64) {
	buf := make([]byte, 64<<10)
	for {
		k, err := from.Read(buf)
		n.Add(int64(k))
		if k > 0 {
			if _, failed := to.Write(buf[:k]); failed != nil {
				err = errors.Join(err, failed)
			}
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}
