package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandIsDocumented walks the tree.
func TestEveryCommandIsDocumented(t *testing.T) {
	var walk func(*cobra.Command)
	seen := 0
	walk = func(cmd *cobra.Command) {
		seen++
		if cmd.Short == "" || !strings.Contains(cmd.Example, "kith ") {
			t.Errorf("%s: help %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented", cmd.CommandPath(), line)
			}
		}
		if !cmd.Runnable() {
			t.Errorf("%s: cannot be run", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk((&app{stdout: io.Discard, stderr: io.Discard}).root())
	if seen < 26 {
		t.Errorf("only %d commands", seen)
	}
}

// TestHelp: help goes to standard output and is no failure.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help"}, {"help", "expose"}, {"expose", "--help"}, {"p2p"}, {"p2p", "stream"}, {"p2p", "listen", "-h"}} {
		r := run(t, newHome(t), args...)
		if r.code != exitDone || r.stderr != "" || !strings.Contains(r.stdout, "Usage:") || !strings.Contains(r.stdout, "Examples:") {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
