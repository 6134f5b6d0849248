package peer

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user that is neither root nor who runs tests.
const nobody = 65534

// TestMain is also the other process of the tests, as another user: it dials or listens, and waits for the end of its input.
func TestMain(m *testing.M) {
	path := os.Getenv("VIADUCT_TEST_SOCKET")
	switch os.Getenv("VIADUCT_TEST_ROLE") {
	case "dial":
		conn, err := net.Dial("unix", path)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		fmt.Println(map[bool]string{true: "served", false: "hung up"}[err == nil])
	case "listen":
		l, err := net.Listen("unix", path)
		if err != nil {
			panic(err)
		}
		defer l.Close()
		fmt.Println("listening")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
	default:
		os.Exit(m.Run())
	}
}

// folder is one that every user can write to, with this program in it.
func folder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("only root can be two users")
	}
	dir, err := os.MkdirTemp("/tmp", "viaduct-peer") //nolint:usetesting // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "self"), program, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// other starts the other process. It returns its first line, and ends it with the test.
func other(t *testing.T, dir, role string, uid uint32) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "self"))
	cmd.Env = append(os.Environ(), "VIADUCT_TEST_ROLE="+role, "VIADUCT_TEST_SOCKET="+filepath.Join(dir, "socket"))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// Who connects to a socket whose mode lets everybody is served if it is root, and hung up on if not.
func TestListenerRefusesOthers(t *testing.T) {
	for uid, want := range map[uint32]string{0: "served", nobody: "hung up"} {
		dir := folder(t)
		path := filepath.Join(dir, "socket")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := Listener{l, slog.New(slog.DiscardHandler)}.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte{1})
				_ = conn.Close()
			}
		}()
		if got := other(t, dir, "dial", uid); got != want {
			t.Errorf("user %d was %s, want %s", uid, got, want)
		}
		_ = l.Close()
		<-done
	}
}

// Who listens where root should is known by it.
func TestCheckTellsWhoListens(t *testing.T) {
	for uid, want := range map[uint32]error{0: nil, nobody: ErrNotRoot} {
		dir := folder(t)
		other(t, dir, "listen", uid)
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(conn); !errors.Is(err, want) {
			t.Errorf("user %d listens: %v, want %v", uid, err, want)
		}
		_ = conn.Close()
	}
}
