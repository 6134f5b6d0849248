package main

import (
	"os/exec"
	"testing"
)

// The process outside ends as the one inside did, with the status of the command on the node.
func TestStatus(t *testing.T) {
	sh := func(script string) error { return exec.CommandContext(t.Context(), "sh", "-c", script).Run() }
	if exit, err := status(sh("exit 42")); exit != 42 || err != nil {
		t.Errorf("exit 42: %d, %v", exit, err)
	}
	if exit, err := status(sh("true")); exit != 0 || err != nil {
		t.Errorf("true: %d, %v", exit, err)
	}
	if _, err := status(sh("kill -9 $$")); err == nil { // which main turns into status 1
		t.Error("killed: no error")
	}
}
