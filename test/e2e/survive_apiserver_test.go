//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// passes marks the packets of the test itself, which still reaches the API server when nobody else on the node does.
const passes = 0x5e

// keepTheAPIServer has the test's client mark its packets.
func keepTheAPIServer(t *testing.T) {
	t.Helper()
	dialer := net.Dialer{Timeout: 30 * time.Second, Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, passes) })
		return errors.Join(controlErr, err)
	}}
	config.Dial = dialer.DialContext
	if err := connect(); err != nil {
		t.Fatal(err)
	}
}

// loseAPIServer drops what the node sends to the API server, for a time in which kubelet and agent notice. Pods are made
// meanwhile; the kubelet hears of them afterwards.
func loseAPIServer(t *testing.T, _ *survival) {
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	rules := fmt.Sprintf(`table ip survive {
		chain output {
			type filter hook output priority 0
			meta mark != %d ip daddr %s tcp dport %s drop
		}
	}`, passes, server.Hostname(), server.Port())
	if err := nft(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nft(context.WithoutCancel(t.Context()), "delete table ip survive"); err != nil { // older nft knows no destroy
			t.Error(err)
		}
	}()
	away := 20 * time.Second // CI has no minute
	if *surviveFor > 0 {
		away = time.Minute
	}
	began := time.Now()
	if c, err := net.DialTimeout("tcp", server.Host, 3*time.Second); err == nil {
		c.Close()
		t.Fatal("the API server is still there")
	}
	time.Sleep(away - time.Since(began)) // this is how long the fault lasts
}

func nft(ctx context.Context, rules string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}
