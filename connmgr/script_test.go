package connmgr

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the scripts in testdata printed as what is expected")

// A step of a script: a command line, its input lines if it has any, and what
// is expected after "----".
//
//	# a comment; kept by -update
//	command arg key=value
//	input
//	----
//	expected
//
// Steps are separated by empty lines.
type step struct {
	pos      string // file:line
	comment  string // lines before the command, with their newlines
	line     string // the command line
	input    []string
	expected string
}

func (s step) command() string { return strings.Fields(s.line)[0] }

// args are the words after the command.
func (s step) args() []string { return strings.Fields(s.line)[1:] }

// arg is the value of key=value, or otherwise.
func (s step) arg(key, otherwise string) string {
	for _, a := range s.args() {
		if v, ok := strings.CutPrefix(a, key+"="); ok {
			return v
		}
	}
	return otherwise
}

func (s step) has(word string) bool {
	for _, a := range s.args() {
		if a == word {
			return true
		}
	}
	return false
}

// runScripts runs every script that matches testdata/pattern in a subtest. For
// each, start makes a fresh executor, which answers a step with what it prints.
func runScripts(t *testing.T, pattern string, start func(t *testing.T) func(step) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no script matches %s (%v)", pattern, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			steps, tail := parseScript(t, file, string(text))
			execute := start(t)
			var rewritten strings.Builder
			for _, s := range steps {
				got := strings.TrimRight(execute(s), "\n")
				if got != s.expected && !*update {
					t.Errorf("%s: %s\ngot:\n%s\nexpected:\n%s", s.pos, s.line, got, s.expected)
				}
				fmt.Fprintf(&rewritten, "%s%s\n", s.comment, s.line)
				for _, in := range s.input {
					fmt.Fprintln(&rewritten, in)
				}
				fmt.Fprintf(&rewritten, "----\n%s\n", got)
			}
			rewritten.WriteString(tail)
			if *update {
				if err := os.WriteFile(file, []byte(rewritten.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// parseScript returns the steps and the comments after the last.
func parseScript(t *testing.T, file, text string) (steps []step, tail string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		var s step
		for i < len(lines) && (lines[i] == "" || strings.HasPrefix(lines[i], "#")) {
			s.comment += lines[i] + "\n"
			i++
		}
		if i == len(lines) {
			return steps, s.comment
		}
		s.pos, s.line = fmt.Sprintf("%s:%d", file, i+1), lines[i]
		for i++; i < len(lines) && lines[i] != "----"; i++ {
			if lines[i] == "" {
				t.Fatalf("%s: no ---- after %q", s.pos, s.line)
			}
			s.input = append(s.input, lines[i])
		}
		if i == len(lines) {
			t.Fatalf("%s: no ---- after %q", s.pos, s.line)
		}
		var expected []string
		for i++; i < len(lines) && lines[i] != ""; i++ {
			expected = append(expected, lines[i])
		}
		s.expected = strings.Join(expected, "\n")
		steps = append(steps, s)
	}
	return steps, ""
}
