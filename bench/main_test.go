package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The rows that need nothing but this module.
func TestQuickInProcess(t *testing.T) {
	out := capture(t, "--quick", "--pairs", "1", "--json", "--profile", t.TempDir(), "stream", "bound")
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(r.Rows) != 4 || !r.Quick || r.Machine.Go == "" {
		t.Errorf("reported %s", out)
	}
}

// The rows of messages: each side of each works.
func TestQuickMessages(t *testing.T) {
	for row, lines := range map[string]int{"mconn": 4 * 8, "echo": 6, "rpc": 2 * 6, "router": 2*2 + 1, "dispatch": 2 + 1 + 2} {
		t.Run(row, func(t *testing.T) {
			out := capture(t, "--quick", "--pairs", "1", "--json", row)
			var r report
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if len(r.Rows) != lines {
				t.Errorf("%d lines, want %d: %s", len(r.Rows), lines, out)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	if _, err := run(t.Context(), []string{"nonsense"}); err == nil || !strings.Contains(err.Error(), "stream, bound") {
		t.Errorf("an unknown row: %v", err)
	}
}

func TestMarkdown(t *testing.T) {
	r := report{Quick: true, Rows: []result{
		{Row: "a", Ours: "kith", OursP50: 1234.5, Bar: 1.2, Ratio: 1.3, Met: true, Notes: []string{"a note"}},
		{Row: "c", Ours: "kith", Ratio: 7, Met: true},
		{Row: "b", Ours: "kith", OursP50: 1.25, Bar: 0.6, AtMost: true, Ratio: 0.7},
	}}
	r.peer("kubo", "as it is")
	r.peer("kubo", "as it is")
	var b bytes.Buffer
	if err := r.writeMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"smoke run", "kith: 1234", "| >= 1.2 |", "| met |", "| <= 0.6 |", "| none |", "| printed |", "**missed**", "* a, : a note"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %s", want, b.String())
		}
	}
	if strings.Count(b.String(), "as it is") != 1 || r.met() {
		t.Errorf("printed %s", b.String())
	}
}

// capture is what a run prints.
func capture(t *testing.T, args ...string) []byte {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	old := os.Stdout
	os.Stdout = file
	_, err = run(t.Context(), args)
	os.Stdout = old
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out
}
