package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A demo prints what it does as a person would type it.
type demo struct {
	out   io.Writer
	start time.Time
	step  int
	title string // of the step
}

// heading begins a step.
func (d *demo) heading(format string, args ...any) {
	d.step++
	d.title = fmt.Sprintf(format, args...)
	line := fmt.Sprintf("━━ %d. %s ", d.step, d.title)
	rule := strings.Repeat("━", max(2, 100-len([]rune(line))))
	fmt.Fprintf(d.out, "\n%s%s %4.0f s\n", line, rule, time.Since(d.start).Seconds())
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "   "+format+"\n", args...)
}

// run shows a command line and its output, which it also returns.
func (d *demo) run(ctx context.Context, argv ...string) (string, error) {
	fmt.Fprintf(d.out, "$ %s\n", quote(argv))
	var kept bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout = io.MultiWriter(&kept, d.out)
	cmd.Stderr = d.out
	if err := cmd.Run(); err != nil {
		return kept.String(), fmt.Errorf("%s: %w", quote(argv), err)
	}
	return kept.String(), nil
}

// read runs a command without showing it.
func read(ctx context.Context, argv ...string) (string, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("%s: %w", quote(argv), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// readJSON decodes what a command prints.
func readJSON(ctx context.Context, v any, argv ...string) error {
	out, err := read(ctx, argv...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("read the output of %s: %w", quote(argv), err)
	}
	return nil
}

// wait asks check until it says done, and shows each new state that it reports on the way. An error of check is a state
// too: much fails for a while in a cluster that starts.
func (d *demo) wait(ctx context.Context, timeout time.Duration, what string, check func(context.Context) (done bool, state string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begin, last := time.Now(), ""
	d.say("waiting until %s", what)
	for {
		done, state, err := check(ctx)
		if err != nil && ctx.Err() == nil {
			state = err.Error()
		}
		if state != last && state != "" {
			d.say("%5.0f s  %s", time.Since(begin).Seconds(), state)
			last = state
		}
		if done && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %s (last seen: %s)", timeout, what, last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// diagnose shows what a person would look at first after a failure.
func (d *demo) diagnose(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	fmt.Fprintln(d.out, "\n━━ What the node says")
	for _, argv := range [][]string{
		{"kubectl", "get", "pods", "-A", "-o", "wide"},
		{"kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"sh", "-c", "tail -n 40 /var/log/pods/viaduct_*/*/*.log"}, // kubectl logs needs more that works
		{"ip", "-d", "link"},
		{"sh", "-c", "for n in $(ip netns | cut -d' ' -f1); do ip -n $n -s link show; ip -n $n neigh; done"},
		{"sh", "-c", "dmesg | grep -i igb | tail -n 30"},
	} {
		if _, err := d.run(ctx, argv...); err != nil {
			d.say("%v", err)
		}
	}
}

// quote writes a command line as a shell would take it.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if w == "" || strings.ContainsAny(w, " \"'$\\{}()*?;&|<>#") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}

func writeSysfs(path, value string) error {
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("write %s to %s: %w", value, path, err)
	}
	return nil
}
