package kith_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The hook that `make hooks` turns on lets a clean commit pass and stops one with
// a file that is not formatted, or that vet objects to. It runs in a small
// repository with this one's hook and Makefile.
func TestPreCommitHook(t *testing.T) {
	const clean = "package scratch\n\n// X is one.\nconst X = 1\n"
	for name, tc := range map[string]struct {
		source string
		says   string // why it is refused; empty: it is not
	}{
		"clean":       {clean, ""},
		"unformatted": {"package  scratch\n", "gofmt these:\nx.go"},
		"vet":         {"package scratch\n\nfunc f() { _ = 1; x := 1; x = x }\n", "self-assignment"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put := func(path string, mode os.FileMode, data []byte) {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, path), data, mode); err != nil {
					t.Fatal(err)
				}
			}
			for path, mode := range map[string]os.FileMode{"Makefile": 0o644, ".githooks/pre-commit": 0o755} {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				put(path, mode, data)
			}
			put("go.mod", 0o644, []byte("module scratch\n\ngo 1.26\n"))
			put("x.go", 0o644, []byte(tc.source))
			do := func(name string, args ...string) (string, error) {
				cmd := exec.Command(name, args...)
				cmd.Dir = dir
				cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			for _, c := range [][]string{{"git", "init", "-q"}, {"make", "-s", "hooks"}, {"git", "add", "-A"}} {
				if out, err := do(c[0], c[1:]...); err != nil {
					t.Fatalf("%q: %v\n%s", c, err, out)
				}
			}
			out, err := do("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "x")
			_, missing := do("git", "rev-parse", "-q", "--verify", "HEAD")
			if refused := tc.says != ""; refused != (err != nil) || refused != (missing != nil) || !strings.Contains(out, tc.says) {
				t.Errorf("committed: %t (%v), the hook says\n%s", missing == nil, err, out)
			}
		})
	}
	if info, err := os.Stat(".githooks/pre-commit"); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("the hook cannot be run: %v %v", info.Mode(), err)
	}
}
