package main

import (
	"os"
	"strings"
	"testing"
)

// Any character device counted as a terminal, so `kith connect P/S - < /dev/zero`
// gave up its upload when the service had said all it had to say.
func TestRegressionADeviceIsNoTerminal(t *testing.T) {
	for path, want := range map[string]bool{"/dev/null": false, "/dev/zero": false, "/dev/ptmx": true} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := isTerminal(f); got != want {
			t.Errorf("%s: %v", path, got)
		}
		t.Setenv("TERM", "dumb")
		if inPlace(f) {
			t.Errorf("%s: lines are written over on a dumb terminal", path)
		}
		f.Close()
	}
	if isTerminal(strings.NewReader("")) {
		t.Error("a reader is no terminal")
	}
}
