package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// What the pages and the help tell people to type has to be a command with such flags and arguments.
func TestExamplesCanBeTyped(t *testing.T) {
	var examples []string
	command := regexp.MustCompile(`(?m)^\s*(?:/opt/cni/bin/)?(vfctl .*)$`)
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```")
	err := filepath.WalkDir("../../docs", func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := os.ReadFile(path)
		for _, block := range blocks.FindAllStringSubmatch(string(page), -1) {
			for _, m := range command.FindAllStringSubmatch(block[1], -1) {
				examples = append(examples, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, m := range command.FindAllStringSubmatch(c.Example, -1) {
			examples = append(examples, m[1])
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	if len(examples) < 20 {
		t.Errorf("only %d examples", len(examples))
	}
	for _, example := range examples {
		if err := typed(example); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
}

// typed reads a line as the program would, as far as doing it.
func typed(line string) error {
	line = regexp.MustCompile(` {2,}.*| [|#] .*`).ReplaceAllString(line, "")
	root := newRoot()
	cmd, rest, err := root.Find(strings.Fields(line)[1:])
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
