package delegate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is a running plugin: the leader of a process group of its own. Its start time, in clock ticks since boot,
// tells it from a later process of the same number.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// stat is what this package needs of /proc/<pid>/stat.
type stat struct {
	state byte
	group int
	start uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	// The second field is the program's name in parentheses, and may hold anything, parentheses too.
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("read /proc/%d/stat: no name in it", pid)
	}
	fields := bytes.Fields(data[end+1:])
	const state, group, start = 0, 2, 19
	if len(fields) <= start {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	g, err := strconv.Atoi(string(fields[group]))
	if err != nil {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	s, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return stat{state: fields[state][0], group: g, start: s}, nil
}

func newProcess(pid int) (Process, error) {
	s, err := readStat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("look at the plugin's process: %w", err)
	}
	return Process{PID: pid, Start: s.start}, nil
}

// end kills what is left of p's process group and waits until it is gone: the plugin itself dies with the stub, but not
// the IPAM plugin that it may have started. containerID tells its processes from those of a stranger that came to lead
// a group of the same number.
func (p Process) end(ctx context.Context, containerID string) error {
	for {
		left, err := p.members(containerID)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process %d, left by an interrupted call: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v, left by an interrupted call, do not end: %w", left, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// members lists the live processes of p's group. Zombies do nothing any more.
func (p Process) members(containerID string) ([]int, error) {
	if leader, err := readStat(p.PID); err == nil && leader.start != p.Start {
		// A number is given again only when no process and no group has it: the whole group is gone.
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes left by an interrupted call: %w", err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if err != nil || s.group != p.PID || s.state == 'Z' || s.state == 'X' {
			continue
		}
		if pid == p.PID || serves(pid, containerID) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// serves reports whether the process was started for the container.
func serves(pid int, containerID string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool {
		return string(v) == "CNI_CONTAINERID="+containerID
	})
}
