package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Whichever two of the five die, the one that all of them began with among them
// or not.
func TestMesh(t *testing.T) {
	for _, first := range []int{0, 3} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-kill", fmt.Sprint(first)}, &out); err != nil {
			t.Fatalf("%v after %s", err, &out)
		}
		for _, want := range []string{"all 5 are connected", fmt.Sprintf("node %d is dead", first), "the other 3 still reach each other"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in %s", want, &out)
			}
		}
	}
}
