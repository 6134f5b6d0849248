// Command demo shows, on a node of a running cluster, what Viaduct does: two pods get VFs on VLAN 100, talk over them,
// and give them back as they were. It runs as root on the node itself, with kubectl and KUBECONFIG for the cluster
// (`make demo` starts one in a VM), in the project's folder. Its exit status is the truth.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	keep := flag.Bool("keep", false, "afterwards give a shell on the node, with everything left up")
	vfs := flag.Int("vfs", 4, "how many VFs to make of each PF that has none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *vfs, *keep)
	stop()
	if err != nil {
		os.Exit(1)
	}
}

// run makes the demo and prints its verdict. With keep, a shell on the node follows, whatever the verdict.
func run(ctx context.Context, vfs int, keep bool) error {
	d := &demo{out: os.Stdout, start: time.Now()}
	err := d.steps(ctx, vfs)
	if err != nil {
		d.diagnose(context.WithoutCancel(ctx))
	}
	fmt.Fprintf(d.out, "\n%s\n", d.verdict(time.Since(d.start).Round(time.Second), err))
	if keep {
		fmt.Fprintf(d.out, "\nA shell on the node, with kubectl; the cluster goes when it ends. %s\n",
			"Try: kubectl apply -k test/demo/pods; kubectl -n demo get pods -o wide")
		err = errors.Join(err, shell(ctx))
	}
	return err
}

// verdict is one line, whatever lines the error has.
func (d *demo) verdict(took time.Duration, err error) string {
	if err == nil {
		return fmt.Sprintf("✓ Two pods had a VF each on VLAN %d and talked over them; the VFs are back as before. %s.", vlan, took)
	}
	why := strings.Join(strings.Fields(err.Error()), " ")
	return fmt.Sprintf("✗ FAILED after %s in step %d, %s: %s", took, d.step, d.title, why)
}

func shell(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "bash", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	// A shell ends with the status of its last command, which says nothing here.
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil
	}
	return err
}
