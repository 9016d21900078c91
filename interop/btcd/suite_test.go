package btcd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/btcsuite/btcd/connmgr" // for go.mod: the version whose tests run
)

const repeats = 20

// TestSuite is btcd's suite on kith's connmgr.
func TestSuite(t *testing.T) {
	args := []string{"-race", fmt.Sprint("-count=", repeats)}
	theirs := runTests(t, ".", "github.com/btcsuite/btcd/connmgr", args...)
	ours := runTests(t, scratch(t, nil), ".", args...)
	if len(theirs.results) < 20 {
		t.Fatalf("btcd's suite ran %d tests; it has at least 20:\n%s", len(theirs.results), theirs.output)
	}
	excused, faults := judge(ours, theirs, repeats)
	for _, e := range excused {
		t.Log(e)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
	if t.Failed() {
		t.Logf("on kith:\n%s", ours.output)
	}
	passes := 0
	for _, r := range ours.results {
		passes += r.pass
	}
	t.Logf("%d tests of btcd, %d runs passed on kith", len(theirs.results), passes)
}

// result counts the ends of one test.
type result struct{ pass, fail, skip int }

// run is what one `go test` did.
type run struct {
	results map[string]result // by the name of the top-level test
	ok      bool              // as a whole
	output  string
}

// judge compares a run of the suite on kith with one on btcd. Faults are the
// tests that failed on kith and not on btcd, and those that did not run as
// often as they should have.
func judge(ours, theirs run, times int) (excused, faults []string) {
	if len(theirs.results) == 0 {
		return nil, []string{"btcd's suite ran no test"}
	}
	failed := 0
	for _, name := range slices.Sorted(maps.Keys(theirs.results)) {
		o, b := ours.results[name], theirs.results[name]
		failed += o.fail
		switch {
		case o.pass+o.fail != times || o.skip != 0:
			faults = append(faults, fmt.Sprintf("%s: ended %d times on kith (%d skipped), want %d", name, o.pass+o.fail, o.skip, times))
		case o.fail > 0 && b.fail > 0:
			excused = append(excused, fmt.Sprintf("%s: failed %d of %d times on kith and %d times on btcd: not counted", name, o.fail, times, b.fail))
		case o.fail > 0:
			faults = append(faults, fmt.Sprintf("%s: failed %d of %d times on kith, and never on btcd", name, o.fail, times))
		}
	}
	if !ours.ok && failed == 0 {
		faults = append(faults, "the run on kith failed, though no test did")
	}
	return excused, faults
}

// scratch makes a directory with btcd's tests and our adapter, which change may
// spoil.
func scratch(t *testing.T, change func(adapter string) string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/btcsuite/btcd").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	tests, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "connmgr", "*_test.go"))
	if err != nil || len(tests) < 2 {
		t.Fatalf("btcd's tests are not in the module cache: %v, %v", tests, err)
	}
	for _, test := range tests {
		write(t, filepath.Join(dir, filepath.Base(test)), read(t, test))
	}
	adapter := read(t, filepath.Join("adapter", "adapter.go"))
	if change != nil {
		adapter = change(adapter)
	}
	write(t, filepath.Join(dir, "adapter.go"), adapter)
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	mod := read(t, "go.mod")
	if !strings.Contains(mod, "=> ../..\n") {
		t.Fatal("go.mod does not replace kith by ../..")
	}
	write(t, filepath.Join(dir, "go.mod"), strings.Replace(mod, "=> ../..\n", "=> "+root+"\n", 1))
	write(t, filepath.Join(dir, "go.sum"), read(t, "go.sum"))
	return dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runTests runs the tests of a package in a directory.
func runTests(t *testing.T, dir, pkg string, args ...string) run {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"test", "-json", "-timeout=2m"}, args...), pkg)...)
	cmd.Dir = dir
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	r := parse(out)
	r.ok = err == nil
	r.output += errors.String()
	return r
}

// parse reads the events of `go test -json`.
func parse(events []byte) run {
	r := run{results: map[string]result{}}
	var output strings.Builder
	lines := bufio.NewScanner(bytes.NewReader(events))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		output.WriteString(e.Output)
		if e.Test == "" || strings.Contains(e.Test, "/") {
			continue
		}
		one := r.results[e.Test]
		switch e.Action {
		case "pass":
			one.pass++
		case "fail":
			one.fail++
		case "skip":
			one.skip++
		}
		r.results[e.Test] = one
	}
	r.output = output.String()
	return r
}
