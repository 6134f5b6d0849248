// Package guest is the init of a lab's guest: it makes the mounts that a program expects, runs the job's command with
// its input and output carried to the host, and powers the machine off.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

// goodbye bounds the wait for the host to end the machine once it has the exit status.
const goodbye = 10 * time.Second

// Main is the whole life of process 1. It does not return.
func Main() {
	if err := run(); err != nil {
		// The console is all that is left to speak through when the port does not work.
		fmt.Fprintf(os.Stderr, "viaduct lab guest: %v\n", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintf(os.Stderr, "viaduct lab guest: power off: %v\n", err)
	}
	select {} // process 1 must not exit: the kernel would panic
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("want the path of a job as the only argument, have %q", os.Args[1:])
	}
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var job wire.Job
	if err := json.Unmarshal(raw, &job); err != nil {
		return fmt.Errorf("parse the job %s: %w", os.Args[1], err)
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	conn := wire.NewConn(port)
	session := newSession(conn)
	status, err := session.run(job)
	if err != nil {
		err = conn.Send(wire.Failed, []byte(err.Error()))
	} else {
		err = conn.SendNumber(wire.Exit, status)
	}
	if err != nil {
		return err
	}
	select {
	case <-session.bye:
	case <-time.After(goodbye):
	}
	return nil
}

// Status is what a shell would say: the exit status, or 128 plus the signal.
func status(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
