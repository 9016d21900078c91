package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestMain is the process of the two that are killed, if it is called so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-kill" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Whichever two of the five are killed, the one that all of them began with among
// them or not.
func TestAnyTwoMayBeKilled(t *testing.T) {
	for a := range size {
		for b := a + 1; b < size; b++ {
			t.Run(fmt.Sprintf("%d and %d", a, b), func(t *testing.T) {
				t.Parallel()
				var out bytes.Buffer
				if err := run(t.Context(), []string{"-kill", fmt.Sprintf("%d,%d", a, b)}, &out); err != nil {
					t.Fatalf("%v after %s", err, &out)
				}
				for _, want := range []string{"all 5 reach each other", fmt.Sprintf("nodes %d and %d are dead; the other 3 still reach each other", a, b)} {
					if !strings.Contains(out.String(), want) {
						t.Errorf("no %q in %s", want, &out)
					}
				}
			})
		}
	}
}

func TestTwoMustBeGiven(t *testing.T) {
	for _, bad := range []string{"", "0", "0,0", "0,5", "-1,2", "x,y"} {
		if err := run(t.Context(), []string{"-kill", bad}, nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
