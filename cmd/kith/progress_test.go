package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestProgress: quiet for two seconds, then a line in place, cleared at the end.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w lockedBuffer
		p := startProgress(&w, "working", quietTime)
		time.Sleep(quietTime - time.Millisecond)
		if w.String() != "" {
			t.Errorf("early: %q", w.String())
		}
		time.Sleep(time.Second)
		p.set("still working")
		time.Sleep(time.Second)
		text := w.String()
		if !strings.HasPrefix(text, "\r\x1b[Kworking (2s)") || !strings.HasSuffix(text, "still working (3s)") || strings.Contains(text, "\n") {
			t.Errorf("%q", text)
		}
		p.stop()
		p.stop()
		end := w.String()
		time.Sleep(time.Minute)
		if w.String() != end || !strings.HasSuffix(end, "\r\x1b[K") {
			t.Errorf("after the end: %q", w.String())
		}
	})
}

// TestNoProgressOffTerminals: what is not a terminal gets nothing.
func TestNoProgressOffTerminals(t *testing.T) {
	var w lockedBuffer
	a := &app{stderr: &w}
	a.working("x")()
	if w.String() != "" {
		t.Errorf("%q", w.String())
	}
}
